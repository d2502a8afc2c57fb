from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from deepspot.models._cross_validation.folds import Split, inner_splits, outer_splits, part
from deepspot.models._training.copies import check_copies
from deepspot.models._training.slides import MeasuredSlide


def bare(name, patient, n=6):
    return MeasuredSlide(
        name=name,
        patient=patient,
        table_key="table",
        layer=None,
        counts=csr_matrix((n, 1), dtype=int),
        genes=pd.Index(["g"]),
        rows=np.arange(n),
        table_rows=np.arange(n),
    )


def spots(side):
    return {(slide.name, row) for slide in side for row in slide.rows}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=9))
def test_no_patient_is_ever_on_both_sides(patients):
    slides = [bare(f"s{number}", f"P{patient}") for number, patient in enumerate(patients)]
    if len(set(patients)) < 2:
        with pytest.raises(ValueError, match="at least two patients"):
            outer_splits(slides, "patient")
        return
    centers = {slide.name: np.column_stack([slide.rows, slide.rows]) for slide in slides}
    outer = outer_splits(slides, "patient")
    assert len(outer) == len(set(patients))
    assert sorted(name for split in outer for name, _ in spots(split.test)) == sorted(n for n, _ in spots(slides))
    for split in outer:
        assert not {s.patient for s in split.train} & {s.patient for s in split.test}
        assert spots(split.train) | spots(split.test) == spots(slides)
        inner = inner_splits(split.train, centers)
        for fold in inner:
            assert not spots(fold.train) & spots(fold.test)
            assert spots(fold.train) | spots(fold.test) == spots(split.train)
            if len({s.patient for s in split.train}) > 1:
                assert not {s.patient for s in fold.train} & {s.patient for s in fold.test}
        held = [spot for fold in inner for spot in spots(fold.test)]
        assert sorted(held) == sorted(spots(split.train))


def test_a_patient_on_both_sides_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="Patient 'P1' is on both sides"):
        Split("x", "patients", [bare("a", "P1"), bare("b", "P2")], [bare("c", "P1")])
    with pytest.raises(ValueError, match="Slide 'a' is on both sides"):
        Split("x", "slides", [bare("a", "P1")], [bare("a", "P2")])
    with pytest.raises(ValueError, match="Spots of slide 'a'"):
        Split("x", "blocks", [part(bare("a", "P1"), np.arange(4))], [part(bare("a", "P1"), np.arange(3, 6))])


def test_slides_of_training_patients_can_be_held_out():
    splits = outer_splits([bare("a", "P1"), bare("b", "P1")], "slide")
    assert [(split.name, split.unit) for split in splits] == [("a", "slides"), ("b", "slides")]
    with pytest.raises(ValueError, match='leave_out="slide"'):
        outer_splits([bare("a", "P1"), bare("b", "P1")], "patient")


def test_inner_folds_of_few_patients_are_slides_and_then_strips():
    three = [bare("a", "P1"), bare("b", "P2"), bare("c", "P3")]
    assert [fold.unit for fold in inner_splits(three, {})] == ["patients"] * 3
    assert [fold.unit for fold in inner_splits([bare("a", "P1"), bare("b", "P1")], {})] == ["slides"] * 2
    # Rows in the order of barcodes are scattered over the slide; strips are not.
    place = np.random.default_rng(0).permutation(30)
    strips = inner_splits([bare("a", "P1", 30)], {"a": np.column_stack([np.zeros(30), place])})
    assert [fold.unit for fold in strips] == ["blocks"] * 3
    for fold in strips:
        assert np.ptp(place[fold.test[0].rows]) == 9


def test_same_counts_under_two_patients_are_an_error_with_both_slides(cohort):
    slides, _, _ = cohort(3)
    copy = slides[0]
    shuffled = np.random.default_rng(0).permutation(copy.counts.shape[0])
    genes = np.random.default_rng(1).permutation(len(copy.genes))
    copy = replace(part(copy, shuffled[:30]), name="again", patient="P9")
    copy = replace(copy, counts=copy.counts[:, genes].astype(float), genes=copy.genes[genes])
    everybody = [*slides, copy]
    with pytest.raises(ValueError, match=r"'P0_S0' \(patient 'P0'\) and 'again' \(patient 'P9'\)"):
        check_copies(everybody, [slide.patient for slide in everybody])
    check_copies(everybody, ["P0", "P1", "P2", "P0"])
    check_copies(slides, [slide.patient for slide in slides])


def test_part_of_a_slide_keeps_array_positions():
    slide = replace(bare("a", "P1", 30), array=np.arange(60).reshape(30, 2))
    centers = np.random.default_rng(0).normal(size=(30, 2))
    for fold in inner_splits([slide], {"a": centers}):
        for side in (*fold.train, *fold.test):
            np.testing.assert_array_equal(side.array, slide.array[side.rows])


@pytest.mark.parametrize("dropped", [0, 15, 29])
def test_copy_is_detected_if_it_lacks_a_gene_without_counts(cohort, dropped):
    slides, _, _ = cohort(2)
    counts = slides[0].counts.tolil()
    counts[:, dropped] = 0
    slides[0] = replace(slides[0], counts=counts.tocsr())
    keep = np.random.default_rng(0).permutation([gene for gene in range(30) if gene != dropped])
    slides[1] = replace(
        slides[0], name="again", patient="P1", counts=slides[0].counts[:, keep], genes=slides[0].genes[keep]
    )
    with pytest.raises(ValueError, match="again"):
        check_copies(slides, ["P0", "P1"])
    check_copies(slides, ["P0", "P0"])
