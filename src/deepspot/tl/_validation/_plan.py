"""All folds, with what is chosen from each training side, before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deepspot.tl._slides import MeasuredSlide

from ._copies import check_copies
from ._fold import Fold, plan_fold
from ._splits import LeaveOut, inner_splits, outer_splits


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
        Centres (n, 2) of all spots of every slide, by its name.
    genes, min_detected
        As in :func:`deepspot.tl.cross_validate`.
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
