"""Inputs of all models: context features, scale of the genes, and checks of rows, labels and context."""

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
LEAST_SPREAD = 0.25
# Standard deviations at which features are clipped. A feature that hardly varies in training can be far outside its
# range on a slide with another stain, and would dominate the prediction there.
CLIP = 3.0


def context_features(bags: Bags, context: Sequence[str] = CONTEXT, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Concatenate the spot, the mean of its sub-spots and the maximum over its neighbors.

    `context` names the sets to use, always in this order; `rows` are numbers of spots, by default all. Returns
    (n, d × number of sets) in float32, with zeros for the sub-spots or neighbors of a spot without any.
    """
    for part in context:
        key_in(part, CONTEXT, "context")
    if len(context) == 0:
        raise InputError(f"`context` is empty: name at least one of {list(CONTEXT)}.")
    check_context(context, bags)
    rows = np.arange(len(bags)) if rows is None else rows
    sets = []
    if "spot" in context:
        sets.append(bags.spot[rows])
    if "subspots" in context and bags.subspots is not None:
        if bags.present is None:
            sets.append(bags.subspots[rows].mean(axis=1, dtype=np.float32))
        else:
            total = bags.subspots[rows].sum(axis=1, dtype=np.float32)
            sets.append(total / bags.present[rows].sum(axis=1, keepdims=True).clip(min=1))
    if "neighbors" in context:
        largest = np.full((len(rows), bags.dim), -np.inf, dtype=np.float32)
        for column in padded(bags.neighbors[rows]).T:
            largest = np.maximum(largest, np.where(column[:, None] >= 0, bags.spot[column], -np.inf))
        sets.append(np.where(np.isfinite(largest), largest, 0))
    return np.concatenate(sets, axis=1, dtype=np.float32)


@dataclass(frozen=True)
class Scaler:
    """Standardization of genes by mean and standard deviation of the training set (section 4.2.2), and its inverse.

    `mean` and `std` are (genes,) in float32; `std` is 1 for a constant gene.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, expression: np.ndarray) -> Scaler:
        """Fit to expression (n, genes), NaN for genes that a slide did not measure."""
        known = np.isfinite(expression)
        count = np.maximum(known.sum(axis=0), 1)
        values = np.where(known, expression, 0).astype(np.float64)
        mean = values.sum(axis=0) / count
        std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
        return cls(mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32))

    def standardize(self, expression: np.ndarray) -> np.ndarray:
        """Convert expression to standard scores."""
        return ((expression - self.mean) / self.std).astype(np.float32)

    def restore(self, scores: np.ndarray) -> np.ndarray:
        """Convert standard scores to expression."""
        return scores * self.std + self.mean


def level_slides(targets: np.ndarray, rows: np.ndarray, slides: np.ndarray) -> np.ndarray:
    """Give every gene the same mean and standard deviation in each slide of the training `rows`.

    They are those of all slides together: the mean, and the standard deviation within slides. So differences between
    slides in level and depth, of which there are too few to learn from, do not count as expression patterns. `targets`
    are (n, genes), NaN for unmeasured values, `slides` (n,). With one slide, the targets are returned as they are. A
    gene with a standard deviation below a quarter of that is enlarged by 4 only: a few spots with the gene are noise.
    """
    parts = [rows[slides[rows] == slide] for slide in np.unique(slides[rows])]
    if len(parts) == 1:
        return targets
    leveled, mean = targets.copy(), Scaler.fit(targets[rows]).mean
    for part in parts:
        leveled[part] = targets[part] - Scaler.fit(targets[part]).mean
    std = Scaler.fit(leveled[rows]).std
    for part in parts:
        leveled[part] = leveled[part] / np.maximum(Scaler.fit(targets[part]).std, LEAST_SPREAD * std) * std + mean
    return leveled


def slide_weights(depth: np.ndarray | None, rows: np.ndarray, slides: np.ndarray) -> np.ndarray:
    """Return a weight (n,) of every spot: the square root of the median depth of its slide, 1 on average over `rows`.

    A shallow slide measures the same expression with more noise. `depth` (n,) are total counts, NaN for unmeasured
    spots; None gives all spots the weight 1.
    """
    weights = np.ones(len(slides), dtype=np.float32)
    if depth is None:
        return weights
    for slide in np.unique(slides[rows]):
        part = slides == slide
        weights[part] = np.sqrt(np.nanmedian(depth[part]))
    return weights / weights[rows].mean()


def sets_of(bags: Bags) -> tuple[Context, ...]:
    """Return the names of the sets in the bags."""
    return tuple(part for part in CONTEXT if part != "subspots" or bags.subspots is not None)


def check_context(context: Sequence[str], bags: Bags) -> None:
    """Raise if the bags lack a set of the context."""
    if "subspots" in context and bags.subspots is None:
        raise InputError("The model uses sub-spots, but the bags have none. Embed with `subspots='tiles'`.")


def which_rows(rows: np.ndarray | None, n: int) -> np.ndarray:
    """Return row numbers, given as numbers (with or without repeats), as a mask (n,), or as None for all rows."""
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
    """Return one label per spot (n,); None gives all spots the same label."""
    if values is None:
        return np.zeros(n, dtype=int)
    if len(values) != n:
        raise InputError(f"`{argument}` must have one label for each of the {n} spots, got {len(values)}.")
    return np.asarray(values)
