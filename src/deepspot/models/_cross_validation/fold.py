"""A split with everything that is chosen from its training side, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from deepspot._core.hashing import digest
from deepspot._features.bags import Bags
from deepspot._stats.normalize import most_variable
from deepspot.errors import InputError
from deepspot.models._training.slides import MeasuredSlide
from deepspot.models._training.targets import Oversample, TrainingSet, choose_genes, common_genes, target, training_set

from .splits import LeaveOut, Split, check_copies, inner_splits, outer_splits

# As in `most_variable`, which ranks no other genes.
SPOTS = 3


@dataclass(frozen=True, eq=False)
class Fold:
    """A split, its genes and its depth.

    Attributes
    ----------
    split
        The two sides.
    genes
        The training side's most variable genes, best first.
    depth_genes
        Genes over which the depth of a spot is summed: those that all training slides share.
    """

    split: Split
    genes: list[str]
    depth_genes: pd.Index


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
    """What is fitted to, and what is predicted."""

    name: str
    genes: list[str]
    train: TrainingSet
    test: list[HeldSlide]

    @cached_property
    def digest(self) -> str:
        """Content hash of all of it."""
        train = self.train
        tests = [
            [slide.name, slide.patient, bags_digest(slide.bags), digest(slide.rows, slide.measured)]
            for slide in self.test
        ]
        return digest(
            bags_digest(train.bags),
            train.targets,
            train.rows,
            list(map(str, train.slides)),
            list(map(str, train.patients)),
            self.genes,
            tests,
        )


def plan_fold(split: Split, genes: int | Sequence[str], min_detected: float) -> Fold:
    """Choose genes and depth from the training side."""
    try:
        return Fold(split, _ranked(split.train, genes, min_detected), common_genes(split.train))
    except ValueError as error:
        error.add_note(f"This happened on the training side of fold {split.name!r}: {[s.name for s in split.train]}.")
        raise


def fold_data(fold: Fold, bags: Mapping[str, Bags], *, oversample: Oversample | None = None, seed: int = 0) -> FoldData:
    """Targets of both sides, on the scale of the training side."""
    train, test = fold.split.train, fold.split.test
    data = training_set(train, bags, [expression(slide, fold) for slide in train], oversample=oversample, seed=seed)
    held = [HeldSlide(s.name, s.patient, bags[s.name], s.rows, expression(s, fold)) for s in test]
    return FoldData(fold.split.name, fold.genes, data, held)


def expression(slide: MeasuredSlide, fold: Fold) -> np.ndarray:
    """Log-expression (n, genes) of a slide of either side; NaN where it did not measure a gene."""
    return target(slide, fold.genes, fold.depth_genes[fold.depth_genes.isin(slide.genes)])


def bags_digest(bags: Bags) -> str:
    """Content hash of bags."""
    optional = [getattr(bags, name) for name in ("subspots", "position", "tiles")]
    known = ["none" if part is None else part for part in optional]
    return digest(bags.spot, bags.neighbors.indptr, bags.neighbors.indices, *known)


def _ranked(train: Sequence[MeasuredSlide], genes: int | Sequence[str], min_detected: float) -> list[str]:
    if isinstance(genes, int):
        return choose_genes(train, genes, min_detected)
    known = set().union(*(slide.genes for slide in train))
    wanted = [gene for gene in dict.fromkeys(genes) if gene in known]
    if not wanted:
        raise InputError("None of `genes` is measured on the training side. Name genes that more slides measure.")
    common = common_genes(train)
    counts = [slide.counts[:, slide.genes.get_indexer(common)] for slide in train]
    seen = np.all([np.asarray((part > 0).sum(axis=0)).ravel() >= SPOTS for part in counts], axis=0)
    ranked = (
        most_variable([part[:, seen] for part in counts], list(common[seen]), int(seen.sum())) if seen.any() else []
    )
    # Genes that cannot be ranked come last, in the order in which they were named.
    place = {gene: number for number, gene in enumerate(ranked)}
    return sorted(wanted, key=lambda gene: place.get(gene, len(place)))


def plan_folds(
    slides: Sequence[MeasuredSlide],
    centers: Mapping[str, np.ndarray],
    genes: int | Sequence[str],
    *,
    min_detected: float = 0.0,
    leave_out: LeaveOut = "patient",
    inner_folds: int | None = 3,
) -> list[tuple[Fold, list[Fold]]]:
    """Every outer fold with its inner ones.

    Parameters
    ----------
    slides
        Measured slides.
    centers
        Centers (n, 2) of all spots of every slide, by its name.
    genes, min_detected
        As in :func:`deepspot.models.cross_validate`.
    leave_out
        What is held out.
    inner_folds
        At most so many; None where nothing has to be chosen.
    """
    splits = outer_splits(slides, leave_out)
    check_copies(slides, [slide.patient if leave_out == "patient" else slide.name for slide in slides])
    folds = []
    for split in splits:
        parts = [] if inner_folds is None else inner_splits(split.train, inner_folds, centers)
        inner = [plan_fold(part, genes, min_detected) for part in parts]
        folds.append((plan_fold(split, genes, min_detected), inner))
    return folds
