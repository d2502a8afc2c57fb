"""Spots become one profile: the mean or the median of every gene, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from scipy.sparse import issparse

from deepspot.tl._predict.resolution import ROWS

HOW = ("mean", "median")
# What a block of genes takes when the median of all spots is found.
BYTES = 256_000_000


def profile(X: Any, how: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Profile of spots; negative values count as 0.

    A mean reads the matrix once, by blocks of spots. A median needs all spots of a gene, and reads it by blocks of
    genes. Neither holds more than a block.

    Parameters
    ----------
    X
        (n, genes), a numpy, sparse or dask array.
    how
        ``"mean"`` or ``"median"``.
    rows
        (n,) bool, which spots belong to the profile; by default all.

    Returns
    -------
    (genes,) float32; NaN for a gene that any of these spots lacks.

    Raises
    ------
    ValueError
        If `how` is another, or there is no spot.
    """
    if how not in HOW:
        raise ValueError(f"`how` must be one of {list(HOW)}, got {how!r}.")
    rows = np.ones(X.shape[0], dtype=bool) if rows is None else np.asarray(rows, dtype=bool)
    if not rows.any():
        raise ValueError("There is no spot to make a profile of.")
    return (_mean if how == "mean" else _median)(X, rows).astype(np.float32)


def _mean(X: Any, rows: np.ndarray) -> np.ndarray:
    total = np.zeros(X.shape[1])
    for block in _blocks(X, 0, ROWS):
        if rows[block].any():
            total += _read(X, block, slice(None))[rows[block]].sum(axis=0, dtype=np.float64)
    return total / rows.sum()


def _median(X: Any, rows: np.ndarray) -> np.ndarray:
    X = X.tocsc() if issparse(X) else X
    size = max(1, BYTES // (8 * len(rows)))
    return np.concatenate(
        [np.median(_read(X, slice(None), block)[rows], axis=0, overwrite_input=True) for block in _blocks(X, 1, size)]
    )


def _blocks(X: Any, axis: int, size: int) -> Iterator[slice]:
    """Slices of one axis, no longer than `size`; none of them crosses a border between the chunks of a dask array."""
    chunks = X.chunks[axis] if hasattr(X, "dask") else (X.shape[axis],)
    for start, stop in pairwise(accumulate(chunks, initial=0)):
        for first in range(start, stop, size):
            yield slice(first, min(first + size, stop))


def _read(X: Any, rows: slice, columns: slice) -> np.ndarray:
    part = X[rows, columns]
    if hasattr(part, "dask"):
        # Within the job of a Dask worker, the default scheduler would send the blocks around the cluster.
        part = part.compute(scheduler="synchronous")
    return np.maximum(part.toarray() if issparse(part) else np.asarray(part), 0)
