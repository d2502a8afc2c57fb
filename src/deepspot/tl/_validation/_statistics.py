"""Uncertainty over patients, who are what a result has to carry over to: never over genes or spots."""

from __future__ import annotations

import numpy as np

ENOUGH = 3
LEVEL = (2.5, 97.5)
# Genes times resamples held at once.
CHUNK = 5_000_000


def draws(n: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Bootstrap samples (n_bootstrap, n) of n folds; the same for all models, so that they are paired."""
    return np.random.default_rng(seed).integers(n, size=(n_bootstrap, n))


def spread(samples: np.ndarray) -> tuple[float, float, float]:
    """Standard error and 95 % interval of a statistic from its bootstrap samples."""
    low, high = np.percentile(samples, LEVEL)
    return float(samples.std(ddof=1)), float(low), float(high)


def p_value(differences: np.ndarray, n: int) -> float:
    """Two-sided p that a difference is 0, from its bootstrap samples over n folds.

    A bootstrap of a few folds that agree in sign never crosses 0, however few they are. So p is not below 2^(1 - n),
    the smallest that a test by flipping the signs of n differences can reach.
    """
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(np.clip(2 * (beyond + 1) / (len(differences) + 1), 2.0 ** (1 - n), 1))


def holm(p: np.ndarray) -> np.ndarray:
    """P-values adjusted by Holm's procedure."""
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def gene_intervals(r: np.ndarray, n_bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval (genes,) and (genes,) of the mean of r (patients, genes) over patients; NaN where it is known once.

    Patients are drawn, and a mean is over those in which the gene is known.
    """
    n, n_genes = r.shape
    known = np.isfinite(r)
    filled = np.where(known, r, 0.0)
    samples = draws(n, n_bootstrap, seed)
    weights = np.stack([(samples == patient).sum(axis=1) for patient in range(n)], axis=1).astype(float)
    low, high = np.full(n_genes, np.nan), np.full(n_genes, np.nan)
    several = np.flatnonzero(known.sum(axis=0) > 1)
    for genes in np.array_split(several, max(1, -(-len(several) * n_bootstrap // CHUNK))):
        count = known[:, genes].T @ weights.T
        total = filled[:, genes].T @ weights.T
        means = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
        # A gene that not all patients know is missing from some samples, and `nanpercentile` is slow.
        always = known[:, genes].all(axis=0)
        for some, percentile in ((always, np.percentile), (~always, np.nanpercentile)):
            if some.any():
                low[genes[some]], high[genes[some]] = percentile(means[some], LEVEL, axis=1, overwrite_input=True)
    return low, high
