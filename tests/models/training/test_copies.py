from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import deepspot as ds
from deepspot._sdata.view import SlideView
from deepspot.models._training.copies import check_copies, thumbnail
from deepspot.models._training.plan import plan_slides
from deepspot.models._training.slides import measure


@pytest.fixture(scope="module")
def measured():
    """Slides of two patients, two of each."""
    slides = ds.datasets.toy(2, 2, n_rows=6, n_cols=8)
    return [
        replace(
            measure(name, sdata, "spots", "table", patient=name[:2], layer=None),
            thumbnail=thumbnail(SlideView.select(sdata, None, None)),
        )
        for name, sdata in slides.items()
    ]


def without_spots(slide, kept):
    return replace(slide, counts=slide.counts[kept], rows=slide.rows[kept], table_rows=slide.table_rows[kept])


def copied(slide, kind):
    """Return a copy of a slide under another name."""
    rng = np.random.default_rng(0)
    copy = without_spots(slide, rng.permutation(len(slide.rows))[:30])
    counts = copy.counts.toarray()
    renamed = pd.Index([f"ENSG{number}" for number in range(len(slide.genes))])
    if kind == "fewer genes":
        copy = replace(copy, counts=csr_matrix(counts[:, :40]), genes=slide.genes[:40])
    if kind in ("renamed genes", "image alone"):
        copy = replace(copy, genes=renamed)
    if kind == "some renamed genes, other rounding":
        noise = (rng.random(counts.shape) < 0.05).astype(int)
        same = len(renamed) * 5 // 6
        copy = replace(copy, counts=csr_matrix(counts + noise), genes=slide.genes[:same].append(renamed[same:]))
    if kind == "image alone":
        copy = replace(copy, counts=csr_matrix(rng.poisson(5, counts.shape)))
    else:
        copy = replace(copy, thumbnail=None)
    return replace(copy, name="again")


KINDS = ["dropped spots", "fewer genes", "renamed genes", "some renamed genes, other rounding", "image alone"]


@pytest.mark.parametrize("kind", KINDS)
def test_planted_copies_are_found(measured, kind, log):
    copy = copied(measured[0], kind)
    what = "image" if kind == "image alone" else "counts"
    for slides in ([*measured, copy], [copy, *measured]):
        log.clear()
        check_copies(slides, [slide.patient for slide in slides])
        assert [line for line in log if f"have the same {what}, so they count twice" in line]
        assert "'again'" in log[0]
        other = [replace(slide, patient="P9") if slide is copy else slide for slide in slides]
        with pytest.raises(ValueError, match=f"'again'.* have the same {what}, so a model would be tested"):
            check_copies(other, [slide.patient for slide in other])


def test_slides_of_one_patient_and_shallow_ones_are_no_copies(measured, log):
    rng = np.random.default_rng(0)
    check_copies(measured, [slide.name for slide in measured])
    for depth in (20, 200):
        shallow = [
            replace(slide, counts=csr_matrix(rng.binomial(slide.counts.toarray(), depth / 3000)), thumbnail=None)
            for slide in measured
        ]
        check_copies(shallow, [slide.name for slide in shallow])
    # Two measurements of the same tissue are not copies either.
    expected = np.expm1(np.random.default_rng(1).normal(1.5, 1, (60, 500)).clip(0))
    genes = pd.Index([f"g{number}" for number in range(500)])
    twice = [
        replace(measured[0], name=name, genes=genes, counts=csr_matrix(rng.poisson(expected)), thumbnail=None)
        for name in "ab"
    ]
    check_copies([replace(slide, rows=np.arange(60)) for slide in twice], ["a", "b"])
    assert log == []


def test_pieces_of_one_scan_are_no_copies(measured):
    gray, places = measured[0].thumbnail
    halves = [
        replace(slide, thumbnail=(gray, places[chosen]))
        for slide, chosen in zip(measured[::2], (places[:, 0] < 0.5, places[:, 0] >= 0.5), strict=True)
    ]
    check_copies(halves, ["P1", "P2"])


def test_slides_of_a_training_set_have_thumbnails(toy, cheap_encoder):
    from deepspot.models._training.config import SlideKeys, TileConfig

    plan = plan_slides(toy, "patient", cheap_encoder, SlideKeys(), TileConfig())
    assert all(slide.thumbnail[0].shape == (32, 32) for slide in plan.measured)
    assert all(np.abs(slide.thumbnail[1] - 0.5).max() < 0.5 for slide in plan.measured)
    assert cheap_encoder.n_tiles == 0


@pytest.mark.slow
def test_serial_sections_are_no_copies(data, log):
    sections = []
    for name in ("B4", "C2", "C3", "C4", "C5"):
        sdata = ds.datasets.her2st(name)
        view = SlideView.select(sdata, None, None)
        slide = measure(name, sdata, view.shapes_key, view.measured_key(), patient=name[0], layer=None)
        sections.append(replace(slide, thumbnail=thumbnail(view)))
    check_copies(sections, [slide.name for slide in sections])
    assert not [line for line in log if "same" in line]
    for kind in KINDS:
        copy = copied(sections[1], kind)
        with pytest.raises(ValueError, match=r"'C2'.*'again'"):
            check_copies([*sections, copy], [*"BCCCC", "D"])
