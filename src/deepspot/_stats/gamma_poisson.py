"""Gamma-Poisson model of measured counts around a predicted expression.

The true rate of a gene in a spot, in counts per 10,000, has a gamma distribution around the predicted rate. Its squared
coefficient of variation is the dispersion of the gene. Counts are Poisson with the true rate times the exposure of the
spot, its depth in units of 10,000 counts. So counts are negative binomial around the prediction, and the posterior mean
of the true rate is a weighted mean of measured and expected rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MIN_DISPERSION = 1e-3  # otherwise the measurement of a gene that seems perfectly predicted would be ignored
# Lowest expectation, as a share of the mean of the gene: no count could change a prediction of 0.
MIN_EXPECTED = 0.05
N_NODES = 5  # more change results by less than 0.01, except at dispersions above 3


def residuals(slides: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the dispersion of true rates around predicted rates within slides, and their level.

    The dispersion is Σ((k - μ)² - μ) / Σμ² over all spots, at least 0, with counts k and expected counts μ after a
    correction for the level of the gene on the slide. Subtracting the Poisson variance μ removes the counting noise.

    The level is Σk / Σμ without this correction. It is above 1, as the exponential of a mean of logarithms is lower
    than the mean.

    Each slide is a tuple of counts (n, genes), exposure (n,) and out-of-fold predicted rates (n, genes) in counts per
    10,000, NaN where unknown. Both results are (genes,) float64, and NaN for genes without data.
    """
    excess, square, total_measured, total_expected = 0.0, 0.0, 0.0, 0.0
    for counts, exposure, rate in slides:
        known = np.isfinite(rate) & np.isfinite(counts)
        k = np.where(known, counts, 0.0)
        expected = np.where(known, rate, 0.0) * exposure[:, None]
        total, measured = expected.sum(axis=0), k.sum(axis=0)
        total_measured, total_expected = total_measured + measured, total_expected + total
        expected = expected * _ratio(measured, total, 0.0)
        excess = excess + ((k - expected) ** 2 - expected).sum(axis=0)
        square = square + (expected**2).sum(axis=0)
    level = _ratio(total_measured, np.where(np.asarray(total_measured) > 0, total_expected, 0), np.nan)
    return np.maximum(_ratio(excess, square, np.nan), 0), level


def level_shift(counts: np.ndarray, exposure: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Estimate the level of each gene on this slide relative to the expectation: a factor (genes,), shrunk towards 1.

    Stain, tissue and protocol shift whole genes, and the total of a slide shows such a shift even if its spots are
    shallow. The factors have a gamma distribution with mean 1, whose variance is estimated from the totals of all
    genes, so that genes with few counts are shrunk most. The arguments are those of `posterior`.
    """
    measured, total = counts.sum(axis=0, dtype=float), (expected * exposure[:, None]).sum(axis=0, dtype=float)
    spread = _ratio(((measured - total) ** 2 - total).sum(), (total**2).sum(), 0.0)
    prior = 1 / max(float(spread), MIN_DISPERSION)
    return (measured + prior) / (total + prior)


def posterior(
    counts: np.ndarray, exposure: np.ndarray, expected: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior mean of log1p of the true rate (n, genes), and the weight (n, genes) of the measurement.

    Counts are (n, genes), `exposure` (n,) is in units of 10,000 counts, `expected` (n, genes) in counts per 10,000, and
    `spread` (genes,) is the dispersion. The mean of the rate itself is ``weight * measured + (1 - weight) * expected``.

    The logarithm of that mean would be too high, the more so the fewer counts a spot has: shallow and deep parts of a
    slide would differ. Means of logarithms do not depend on depth, and have the smallest squared error. They are
    computed by quadrature, with the quantiles of the gamma distribution from the approximation of Wilson and Hilferty.
    """
    expected = np.maximum(expected, MIN_EXPECTED * expected.mean(axis=0))
    inverse = 1 / np.maximum(spread, MIN_DISPERSION)
    shape = inverse + counts
    scale = _ratio(expected, inverse + expected * exposure[:, None], 0.0)
    nodes, shares = np.polynomial.hermite_e.hermegauss(N_NODES)
    cube = 1 / (9 * shape)
    logs = np.zeros_like(scale)
    for node, share in zip(nodes, shares / shares.sum(), strict=True):
        logs += share * np.log1p(shape * scale * np.maximum(1 - cube + node * np.sqrt(cube), 0) ** 3)
    return logs, scale * exposure[:, None]


def _ratio(above: np.ndarray | float, below: np.ndarray | float, otherwise: float) -> np.ndarray:
    above, below = np.broadcast_arrays(np.asarray(above, dtype=float), np.asarray(below, dtype=float))
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 0)
