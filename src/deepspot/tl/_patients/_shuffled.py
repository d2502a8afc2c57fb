"""Pearson's r of every gene over patients, and what it is when patients are shuffled."""

from __future__ import annotations

import numpy as np

from deepspot._logging import track

NO, PSEUDOBULK, BULK, MISSING = "no", "pseudobulk", "bulk", "missing"
"""Why r of a gene is undefined: it is not, one side does not vary, or holds missing values."""


def undefined(slides: np.ndarray, bulk: np.ndarray) -> np.ndarray:
    """Why r (genes,) of two matrices (n, genes) is undefined."""
    known = np.isfinite(slides).all(axis=0) & np.isfinite(bulk).all(axis=0)
    found = np.full(slides.shape[1], NO, dtype=object)
    for name, values in ((PSEUDOBULK, slides), (BULK, bulk)):
        found[known & (np.ptp(values, axis=0) <= 1e-9 * np.abs(values).max(axis=0))] = name
    found[~known] = MISSING
    return found


def shuffled_r(slides: np.ndarray, bulk: np.ndarray, rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Pearson's r (n, genes) when bulk profiles are dealt out anew.

    Several slides of one bulk profile stay together, as they resemble one another.

    Parameters
    ----------
    slides
        (slides, genes), defined.
    bulk
        (profiles, genes), defined; each belongs to a slide.
    rows
        (slides,) which of them belongs to a slide.
    n
        Number of permutations.
    seed
        Of them.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(rows, minlength=len(bulk)).astype(np.float64)
    slides = slides - slides.mean(axis=0)
    slides = slides / np.sqrt((slides**2).sum(axis=0))
    together = np.zeros(bulk.shape)
    np.add.at(together, rows, slides)
    bulk = bulk - bulk.mean(axis=0)
    # Where each profile belongs to as many slides, its mean and spread over slides do not depend on the permutation.
    total, squares = counts @ bulk, counts @ bulk**2
    alike, spread = len(set(counts)) == 1, bulk**2
    found = np.empty((n, bulk.shape[1]), dtype=np.float32)
    for number in track(range(n), "Shuffling patients", total=n):
        order = rng.permutation(len(bulk))
        if not alike:
            back = counts[np.argsort(order)]
            total, squares = back @ bulk, back @ spread
        product = np.einsum("pg,pg->g", together, bulk[order])
        found[number] = product / np.sqrt(np.maximum(squares - total**2 / len(rows), 1e-300))
    return found


def p_values(r: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share (genes,) of permutations with an r as high; never 0, as the data themselves are one of them."""
    return (1 + (null >= r.astype(np.float32)).sum(axis=0)) / (1 + len(null))
