"""Which spots an estimator learns from, and which it holds out."""

from __future__ import annotations

import numpy as np

HELD_OUT = 0.2


def which_rows(rows: np.ndarray | None, n: int) -> np.ndarray:
    """Row numbers to learn from, given as numbers, as a mask (n,), or None for all. A number may be repeated."""
    if rows is None:
        return np.arange(n)
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise ValueError(f"`rows` as a mask must be of shape ({n},), got {rows.shape}.")
        rows = np.flatnonzero(rows)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= n:
        raise ValueError(f"`rows` must be row numbers from 0 to {n - 1}, at least one.")
    return rows


def labels(values: np.ndarray | None, n: int, argument: str) -> np.ndarray:
    """One label for each of n spots; None means that all are alike."""
    if values is None:
        return np.zeros(n, dtype=int)
    if len(values) != n:
        raise ValueError(f"`{argument}` must have one label for each of the {n} spots, got {len(values)}.")
    return np.asarray(values)


def held_out(rows: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray | None:
    """Rows of a fifth of the patients, at least one; None with a single patient."""
    known = np.unique(patients[rows])
    if len(known) < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(known)[: max(1, round(HELD_OUT * len(known)))]
    once = np.unique(rows)
    return once[np.isin(patients[once], drawn)]
