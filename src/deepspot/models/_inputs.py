"""Inputs that all models share: context features, rows, labels, and the scale of genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from deepspot._core.keys import key_in
from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded
from deepspot.errors import InputError

from ._network.config import Context

CONTEXT: tuple[Context, ...] = get_args(Context)


def sets_of(bags: Bags) -> tuple[Context, ...]:
    """Sets that the bags hold."""
    return tuple(part for part in CONTEXT if part != "subspots" or bags.subspots is not None)


def context_features(bags: Bags, context: Sequence[str] = CONTEXT, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Sets of a spot side by side: the spot itself, the mean of its sub-spots, the maximum over its neighbors.

    Parameters
    ----------
    bags
        Embeddings of n spots.
    context
        Which of ``"spot"``, ``"subspots"``, ``"neighbors"``; they come in this order, however they are given.
    rows
        Which of the spots (n,); by default all.

    Returns
    -------
    (n, d × number of sets) in float32. A spot without neighbors has zeros for them.
    """
    for part in context:
        key_in(part, CONTEXT, "context")
    if len(context) == 0:
        raise InputError(f"`context` is empty: name at least one of {list(CONTEXT)}.")
    rows = np.arange(len(bags)) if rows is None else rows
    sets = []
    if "spot" in context:
        sets.append(bags.spot[rows])
    if "subspots" in context:
        if bags.subspots is None:
            raise InputError("`context` has sub-spots, but there are none. Embed with `subspots=True`.")
        sets.append(bags.subspots[rows].mean(axis=1, dtype=np.float32))
    if "neighbors" in context:
        around = np.full((len(rows), bags.dim), -np.inf, dtype=np.float32)
        for column in padded(bags.neighbors[rows]).T:
            around = np.maximum(around, np.where(column[:, None] >= 0, bags.spot[column], -np.inf))
        sets.append(np.where(np.isfinite(around), around, 0))
    return np.concatenate(sets, axis=1, dtype=np.float32)


def which_rows(rows: np.ndarray | None, n: int) -> np.ndarray:
    """Row numbers to learn from, given as numbers, as a mask (n,), or None for all. A number may be repeated."""
    if rows is None:
        return np.arange(n)
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise InputError(f"`rows` as a mask must be of shape ({n},), got {rows.shape}.")
        rows = np.flatnonzero(rows)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= n:
        raise InputError(f"`rows` must be row numbers from 0 to {n - 1}, at least one.")
    return rows


def labels(values: np.ndarray | None, n: int, argument: str) -> np.ndarray:
    """One label for each of n spots; None means that all are alike."""
    if values is None:
        return np.zeros(n, dtype=int)
    if len(values) != n:
        raise InputError(f"`{argument}` must have one label for each of the {n} spots, got {len(values)}.")
    return np.asarray(values)


@dataclass(frozen=True)
class Scaler:
    """Standardization of genes by the mean and sd of the training set (section 4.2.2), and its inverse.

    Attributes
    ----------
    mean, std
        (genes,) float32; a gene that does not vary keeps its scale.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, expression: np.ndarray) -> Scaler:
        """Learn from expression (n, genes), NaN where a slide did not measure a gene."""
        known = np.isfinite(expression)
        count = np.maximum(known.sum(axis=0), 1)
        values = np.where(known, expression, 0).astype(np.float64)
        mean = values.sum(axis=0) / count
        std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
        return cls(mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32))

    def standardize(self, expression: np.ndarray) -> np.ndarray:
        """Expression to standard scores."""
        return ((expression - self.mean) / self.std).astype(np.float32)

    def restore(self, scores: np.ndarray) -> np.ndarray:
        """Standard scores to expression."""
        return scores * self.std + self.mean
