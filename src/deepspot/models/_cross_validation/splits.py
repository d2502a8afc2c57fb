"""Who is learned from and who is held out. A split that leaks cannot be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.hashing import digest
from deepspot.errors import InputError
from deepspot.models._confidence.folds import Unit, make_folds
from deepspot.models._training.slides import MeasuredSlide

LeaveOut = Literal["patient", "slide"]


@dataclass(frozen=True, eq=False)
class Split:
    """Slides, or parts of them, on two sides.

    Attributes
    ----------
    name
        The held-out patient or slide, or the number of an inner fold.
    unit
        What must not be on both sides.
    train, test
        Measured spots of both sides.
    """

    name: str
    unit: Unit
    train: list[MeasuredSlide]
    test: list[MeasuredSlide]

    def __post_init__(self) -> None:
        check_apart(self)


def check_apart(split: Split) -> None:
    """Raise if a patient, a slide or a spot is on both sides, whichever must not be."""
    fields = {"patients": ["patient", "name"], "slides": ["name"], "blocks": []}[split.unit]
    for field in fields:
        train, test = ({getattr(slide, field) for slide in side} for side in (split.train, split.test))
        if train & test:
            what = "Patient" if field == "patient" else "Slide"
            raise InputError(
                f"{what} {min(train & test)!r} is on both sides of fold {split.name!r}: no accuracy could be believed. "
                "Check `patient_key`."
            )
    learned = {slide.name: slide.rows for slide in split.train}
    for slide in split.test:
        if np.isin(slide.rows, learned.get(slide.name, [])).any():
            raise InputError(f"Spots of slide {slide.name!r} are on both sides of fold {split.name!r}.")


def outer_splits(slides: Sequence[MeasuredSlide], leave_out: LeaveOut) -> list[Split]:
    """Hold out every patient, or every slide, once."""
    labels = [slide.patient if leave_out == "patient" else slide.name for slide in slides]
    names = list(dict.fromkeys(labels))
    if len(names) < 2:
        hint = (
            ""
            if leave_out == "slide"
            else (' With several slides of one patient `leave_out="slide"` checks that the code learns, no more.')
        )
        raise InputError(
            f"Cross-validation needs at least two {leave_out}s, got {names}.{hint} Add slides of other patients."
        )
    unit: Unit = "patients" if leave_out == "patient" else "slides"
    return [Split(name, unit, *_sides(slides, [label == name for label in labels])) for name in names]


def inner_splits(slides: Sequence[MeasuredSlide], n_folds: int, centers: Mapping[str, np.ndarray]) -> list[Split]:
    """Fold a training side: by patient; with one patient by slide; with one slide by strips across it.

    Parameters
    ----------
    slides
        Training side of an outer fold.
    n_folds
        At most so many; with as many patients (slides) or fewer, each is held out once.
    centers
        Centers (n, 2) of all spots of every slide, by its name.
    """
    position = centers[slides[0].name][slides[0].rows] if len(slides) == 1 else None
    sizes = [len(slide.rows) for slide in slides]
    names, patients = (np.repeat([getattr(slide, field) for slide in slides], sizes) for field in ("name", "patient"))
    folds = make_folds(np.arange(sum(sizes)), names, patients, n_folds, position=position)
    splits = []
    for number, (_, held) in enumerate(folds.splits, start=1):
        masks = np.split(np.isin(np.arange(sum(sizes)), held), np.cumsum(sizes)[:-1])
        train = [part(slide, ~mask) for slide, mask in zip(slides, masks, strict=True) if not mask.all()]
        test = [part(slide, mask) for slide, mask in zip(slides, masks, strict=True) if mask.any()]
        splits.append(Split(str(number), folds.unit, train, test))
    return splits


def part(slide: MeasuredSlide, which: np.ndarray) -> MeasuredSlide:
    """Some measured spots of a slide, by mask or number."""
    array = None if slide.array is None else slide.array[which]
    return replace(slide, counts=slide.counts[which], rows=slide.rows[which], array=array)


def _sides(slides: Sequence[MeasuredSlide], held: Sequence[bool]) -> tuple[list[MeasuredSlide], list[MeasuredSlide]]:
    pairs = list(zip(slides, held, strict=True))
    return [slide for slide, out in pairs if not out], [slide for slide, out in pairs if out]


SAME = 0.5


def spot_hashes(slide: MeasuredSlide, names: pd.Index) -> list[str]:
    """Content hash of the counts of every spot by gene name, whatever the order of spots and genes.

    `names` holds the genes of all slides, so that a gene without counts that one copy lacks makes no difference.
    """
    counts = slide.counts.tocoo()
    places = names.get_indexer(pd.Index(np.asarray(slide.genes, dtype=str)))[counts.col]
    counts = csr_matrix((counts.data.astype(np.int64), (counts.row, places)), shape=(counts.shape[0], len(names)))
    counts.eliminate_zeros()
    counts.sort_indices()
    ends = zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
    return [digest(counts.indices[a:b], counts.data[a:b]) for a, b in ends]


def check_copies(slides: Sequence[MeasuredSlide], units: Sequence[str]) -> None:
    """Raise if slides of two units (patients, or slides where these are held out) share most of their spots.

    Parameters
    ----------
    slides
        Measured slides.
    units
        What is held out together: one label for each slide.
    """
    names = pd.Index(sorted({str(gene) for slide in slides for gene in slide.genes}))
    hashes = [set(spot_hashes(slide, names)) for slide in slides]
    for a, b in combinations(range(len(slides)), 2):
        if units[a] != units[b] and len(hashes[a] & hashes[b]) > SAME * min(len(hashes[a]), len(hashes[b])):
            raise InputError(
                f"Slides {slides[a].name!r} (patient {slides[a].patient!r}) and {slides[b].name!r} (patient "
                f"{slides[b].patient!r}) hold the same counts: a model would be tested on what it learned from. "
                "Leave one out, or correct `patient_key`."
            )
