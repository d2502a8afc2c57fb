"""Highest correlation that a perfect prediction can have with noisy counts."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from .metrics import pearson
from .normalize import LOG1P_10K, Scale, normalize
from .within import r_within

N_SPLITS = 10
LEAST = 1.645  # times 1 / sqrt(n): r that independent halves exceed by chance with p = 0.05


def ceiling(
    counts: csr_matrix,
    depth: np.ndarray,
    *,
    counted: np.ndarray | None = None,
    scale: Scale = LOG1P_10K,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the highest Pearson r (genes,) that a prediction can have with counts (n, genes) of spots of `depth` (n,).

    The counts are split at random into halves (binomial), which are independent measurements of the same spots. From
    the correlation r of their log-expression, the Spearman-Brown formula gives the reliability 2 r / (1 + r) of the
    whole measurement. Its square root is the correlation with the expected measurement. NaN for a gene whose halves do
    not agree significantly. `counted` (genes,) is whether the depth includes a gene; by default it includes all.
    `scale` is that of the prediction. With `groups` (n,), numbers from 0, it is the ceiling of r of deviations from the
    means of groups.
    """
    rng = np.random.default_rng(seed)
    counts = counts.astype(np.int64)
    inside = np.ones(counts.shape[1], dtype=np.int64) if counted is None else np.asarray(counted, dtype=np.int64)
    others = (depth - counts @ inside).astype(np.int64)
    r = np.zeros(counts.shape[1])
    for _ in range(N_SPLITS):
        half = counts.copy()
        half.data = rng.binomial(counts.data, 0.5)
        other = rng.binomial(others, 0.5)
        halves = [(half, other), (counts - half, others - other)]
        a, b = (normalize(part, part @ inside + rest, scale).toarray() for part, rest in halves)
        r += np.nan_to_num(pearson(a, b) if groups is None else r_within(a, b, groups)) / N_SPLITS
    reliable = r > LEAST / np.sqrt(max(counts.shape[0], 1))
    return np.sqrt(2 * r / (1 + r), out=np.full(len(r), np.nan), where=reliable)


def mean_of_ceiling(r: np.ndarray, ceilings: np.ndarray) -> float:
    """Return the mean of r (genes,) as a share of the mean ceiling, over genes that have both; NaN without any.

    A mean of ratios would depend on the genes with the lowest ceilings.
    """
    known = np.isfinite(r) & np.isfinite(ceilings)
    return float(r[known].mean() / ceilings[known].mean()) if known.any() else float("nan")
