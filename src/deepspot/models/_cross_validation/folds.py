"""Folds of a cross-validation: splits by patient, and what is chosen from their training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from deepspot._core.hashing import digest
from deepspot._core.keys import key_in
from deepspot._features.bags import Bags
from deepspot._stats.normalize import LOG1P_10K, Scale, most_variable
from deepspot.errors import InputError, InputTypeError
from deepspot.models._confidence.folds import Unit, make_folds
from deepspot.models._training.copies import check_copies
from deepspot.models._training.slides import MeasuredSlide
from deepspot.models._training.targets import (
    Oversample,
    TrainingSet,
    choose_genes,
    common_genes,
    slide_ceiling,
    target,
    training_set,
)

LeaveOut = Literal["patient", "slide"]
# Names of the training slides and of the test slides of every fold, by its name.
Given = dict[str, list[list[str]]]
INNER_FOLDS = 3
# Minimum number of spots with a gene, as in `most_variable`, which ranks no other genes.
SPOTS = 3


@dataclass(frozen=True, eq=False)
class Split:
    """Measured slides, or parts of them, for training and testing. A split with leakage raises an error.

    `name` is the held-out patient or slide, or the number of an inner fold; `unit` must not be on both sides.
    """

    name: str
    unit: Unit
    train: list[MeasuredSlide]
    test: list[MeasuredSlide]

    def __post_init__(self) -> None:
        fields = {"patients": ["patient", "name"], "slides": ["name"], "blocks": []}[self.unit]
        for field in fields:
            train, test = ({getattr(slide, field) for slide in side} for side in (self.train, self.test))
            if train & test:
                kind = "Patient" if field == "patient" else "Slide"
                raise InputError(
                    f"{kind} {min(train & test)!r} is on both sides of fold {self.name!r}, so accuracy would be too "
                    "high. Check `patient_key`, and `splits` if folds are given."
                )
        rows = {slide.name: slide.rows for slide in self.train}
        for slide in self.test:
            if np.isin(slide.rows, rows.get(slide.name, [])).any():
                raise InputError(f"Spots of slide {slide.name!r} are on both sides of fold {self.name!r}.")


def outer_splits(slides: Sequence[MeasuredSlide], leave_out: LeaveOut) -> list[Split]:
    """Hold out every patient, or every slide, once."""
    labels = [slide.patient if leave_out == "patient" else slide.name for slide in slides]
    names = list(dict.fromkeys(labels))
    if len(names) < 2:
        hint = ' With several slides of one patient `leave_out="slide"` checks that training works.'
        raise InputError(
            f"Cross-validation needs at least two {leave_out}s, got {names}.{hint if leave_out == 'patient' else ''} "
            "Add slides of other patients."
        )
    unit: Unit = "patients" if leave_out == "patient" else "slides"
    pairs = list(zip(slides, labels, strict=True))
    return [
        Split(
            name, unit, [slide for slide, label in pairs if label != name], [s for s, label in pairs if label == name]
        )
        for name in names
    ]


def given_folds(splits: Any, slides: Sequence[str]) -> Given:
    """Return the names of the slides on both sides of every given fold, see :func:`deepspot.models.cross_validate`."""
    named = isinstance(splits, Mapping)
    if isinstance(splits, str) or not (named or isinstance(splits, Sequence)) or not len(splits):
        raise InputTypeError(
            "`splits` must be a list of pairs (training slides, test slides), or a mapping from names of folds to such "
            f"pairs or to test slides; got {splits!r}."
        )
    folds: Given = {}
    for name, sides in dict(splits if named else enumerate(splits, start=1)).items():
        known = isinstance(sides, Sequence) and not isinstance(sides, str)
        if named and known and len(sides) and all(isinstance(slide, str) for slide in sides):
            sides = [slide for slide in slides if slide not in set(sides)], sides
        if not known or len(sides) != 2 or any(isinstance(side, str) for side in sides):
            raise InputTypeError(
                f"Fold {name!r} of `splits` must be a pair of lists, (training slides, test slides)"
                f"{', or a list of test slides' if named else ''}; got {sides!r}."
            )
        train, test = ([key_in(slide, slides, "slides") for slide in side] for side in sides)
        for side, what in ((train, "training"), (test, "test")):
            if not side or len(set(side)) < len(side):
                wrong = "a repeated" if side else "no"
                raise InputError(f"Fold {name!r} of `splits` has {wrong} {what} slide. Name each slide once.")
        both = [slide for slide in test if slide in train]
        if both:
            raise InputError(f"Slide {both[0]!r} is on both sides of fold {name!r} of `splits`. Name it on one side.")
        folds[str(name)] = [train, test]
    return folds


def given_splits(slides: Sequence[MeasuredSlide], folds: Given, leave_out: LeaveOut) -> list[Split]:
    """Return the splits of given folds. Unless slides are left out, no patient may be on both sides."""
    by_name = {slide.name: slide for slide in slides}
    unit: Unit = "patients" if leave_out == "patient" else "slides"
    return [
        Split(name, unit, [by_name[slide] for slide in train], [by_name[slide] for slide in test])
        for name, (train, test) in folds.items()
    ]


def inner_splits(slides: Sequence[MeasuredSlide], centers: Mapping[str, np.ndarray]) -> list[Split]:
    """Split training slides by patient; with one patient by slide; with one slide into strips.

    There are three folds, or one for each patient (slide) if there are fewer. `centers` (n, 2) are those of all spots,
    by slide name.
    """
    position = centers[slides[0].name][slides[0].rows] if len(slides) == 1 else None
    sizes = [len(slide.rows) for slide in slides]
    names, patients = (np.repeat([getattr(slide, field) for slide in slides], sizes) for field in ("name", "patient"))
    folds = make_folds(np.arange(sum(sizes)), names, patients, INNER_FOLDS, position=position)
    splits = []
    for number, (_, held) in enumerate(folds.splits, start=1):
        masks = np.split(np.isin(np.arange(sum(sizes)), held), np.cumsum(sizes)[:-1])
        train = [part(slide, ~mask) for slide, mask in zip(slides, masks, strict=True) if not mask.all()]
        test = [part(slide, mask) for slide, mask in zip(slides, masks, strict=True) if mask.any()]
        splits.append(Split(str(number), folds.unit, train, test))
    return splits


def part(slide: MeasuredSlide, which: np.ndarray) -> MeasuredSlide:
    """Return some measured spots of a slide, by mask or number."""
    array = None if slide.array is None else slide.array[which]
    return replace(slide, counts=slide.counts[which], rows=slide.rows[which], array=array)


@dataclass(frozen=True, eq=False)
class Fold:
    """A split, the genes chosen on its training set (best first), the genes that define depth there, and the scale."""

    split: Split
    genes: list[str]
    depth_genes: pd.Index
    scale: Scale = LOG1P_10K

    def expression(self, slide: MeasuredSlide) -> np.ndarray:
        """Return the log-expression (n, genes) of a slide of either side; NaN for genes that it did not measure."""
        return target(slide, self.genes, self.depth_genes[self.depth_genes.isin(slide.genes)], self.scale)

    def ceiling(self, slide: MeasuredSlide) -> np.ndarray:
        """Return the highest r (genes,) that a perfect prediction can have with the counts of a slide."""
        return slide_ceiling(slide, self.genes, self.depth_genes[self.depth_genes.isin(slide.genes)], self.scale)


@dataclass(frozen=True, eq=False)
class HeldSlide:
    """A held-out slide: bags of all its spots, and the log-expression (n, genes) of those in `rows`."""

    name: str
    patient: str
    bags: Bags
    rows: np.ndarray
    measured: np.ndarray


@dataclass(frozen=True, eq=False)
class FoldData:
    """Arrays of a fold: training set and held-out slides."""

    name: str
    genes: list[str]
    train: TrainingSet
    test: list[HeldSlide]

    @cached_property
    def digest(self) -> str:
        """Content hash of all arrays and names."""
        train = self.train
        tests = [[s.name, s.patient, _bags_digest(s.bags), digest(s.rows, s.measured)] for s in self.test]
        slides, patients = (list(map(str, names)) for names in (train.slides, train.patients))
        arrays = [train.targets, train.rows, train.depth]
        return digest(_bags_digest(train.bags), *arrays, slides, patients, self.genes, tests)


def _bags_digest(bags: Bags) -> str:
    optional = [getattr(bags, name) for name in ("subspots", "position", "tiles")]
    known = ["none" if values is None else values for values in optional]
    if bags.present is not None:  # a later field, without which digests must not change
        known.append(bags.present)
    return digest(bags.spot, bags.neighbors.indptr, bags.neighbors.indices, *known)


def plan_folds(
    slides: Sequence[MeasuredSlide],
    centers: Mapping[str, np.ndarray],
    genes: int | Sequence[str],
    *,
    min_detected: float = 0.0,
    leave_out: LeaveOut = "patient",
    tune: bool = True,
    scale: Scale = LOG1P_10K,
    given: Given | None = None,
) -> list[tuple[Fold, list[Fold]]]:
    """Return every outer fold with its inner folds, which exist only if there is something to `tune`.

    `centers` (n, 2) are those of all spots by slide name; other arguments as in :func:`deepspot.models.cross_validate`.
    """
    splits = outer_splits(slides, leave_out) if given is None else given_splits(slides, given, leave_out)
    check_copies(slides, [slide.patient if leave_out == "patient" else slide.name for slide in slides])
    folds = []
    for split in splits:
        parts = inner_splits(split.train, centers) if tune else []
        outer, *inner = (plan_fold(each, genes, min_detected, scale) for each in (split, *parts))
        folds.append((outer, inner))
    return folds


def plan_fold(split: Split, genes: int | Sequence[str], min_detected: float, scale: Scale = LOG1P_10K) -> Fold:
    """Choose the genes, and those that define depth, from the training set."""
    try:
        return Fold(split, _ranked(split.train, genes, min_detected), common_genes(split.train), scale)
    except ValueError as error:
        error.add_note(f"This happened on the training set of fold {split.name!r}: {[s.name for s in split.train]}.")
        raise


def _ranked(train: Sequence[MeasuredSlide], genes: int | Sequence[str], min_detected: float) -> list[str]:
    """Return the genes by their variability on the training set; those that cannot be ranked come last, as named."""
    if isinstance(genes, int):
        return choose_genes(train, genes, min_detected)
    known = set().union(*(slide.genes for slide in train))
    wanted = [gene for gene in dict.fromkeys(genes) if gene in known]
    if not wanted:
        raise InputError("None of `genes` is measured on the training set. Name genes that more slides measure.")
    common = common_genes(train)
    counts = [slide.counts[:, slide.genes.get_indexer(common)] for slide in train]
    seen = np.all([np.asarray((values > 0).sum(axis=0)).ravel() >= SPOTS for values in counts], axis=0)
    ranked = most_variable([c[:, seen] for c in counts], list(common[seen]), int(seen.sum())) if seen.any() else []
    rank = {gene: number for number, gene in enumerate(ranked)}
    return sorted(wanted, key=lambda gene: rank.get(gene, len(rank)))


def fold_data(fold: Fold, bags: Mapping[str, Bags], *, oversample: Oversample | None = None, seed: int = 0) -> FoldData:
    """Return the arrays of a fold, with expression of both sets normalized as on the training set."""
    train = fold.split.train
    expression = [fold.expression(slide) for slide in train]
    data = training_set(train, bags, expression, oversample=oversample, seed=seed, scale=fold.scale)
    held = [HeldSlide(s.name, s.patient, bags[s.name], s.rows, fold.expression(s)) for s in fold.split.test]
    return FoldData(fold.split.name, fold.genes, data, held)
