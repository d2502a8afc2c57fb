"""Gamma-Poisson model of measured counts around a predicted expression.

The true rate of a gene in a spot, such as counts per 10,000, has a gamma distribution around the predicted rate. Its
squared coefficient of variation is the dispersion of the gene. Counts are Poisson with the true rate times the exposure
of the spot: its depth in the unit of the rate, such as 10,000 counts, or 1 if rates are raw counts. So counts are
negative binomial around the prediction, and the posterior mean of the true rate is a weighted mean of measured and
expected rate. Predictions are log1p of a rate, and so is the result.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MIN_DISPERSION = 1e-3  # otherwise the measurement of a gene that seems perfectly predicted would be ignored
# Lowest expectation, as a share of the mean of the gene: no count could change a prediction of 0.
MIN_EXPECTED = 0.05
# Number of nodes of the integral over t, and power of t, because it changes fast near 0: by the largest possible rate.
# The error is below 0.001 for rates up to 500 or up to 50,000.
USUAL, FINER = (16, 5), (32, 7)
USUAL_RATE = 10_000


def residuals(slides: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the dispersion of true rates around predicted rates within slides, and their level.

    The dispersion is Σ((k - μ)² - μ) / Σμ² over all spots, at least 0, with counts k and expected counts μ after a
    correction for the level of the gene on the slide. Subtracting the Poisson variance μ removes the counting noise.

    The level is Σk / Σμ without this correction. It is above 1, as the exponential of a mean of logarithms is lower
    than the mean.

    Each slide is a tuple of counts (n, genes), exposure (n,) and out-of-fold predicted rates (n, genes), NaN where
    unknown. Both results are (genes,) float64, and NaN for genes without data.
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
    """Estimate the level of each gene on this slide relative to the expectation: a factor (genes,).

    Stain, tissue and protocol shift whole genes, and the total of a slide shows such a shift even if its spots are
    shallow. The factors have a gamma distribution around the ratio of all counts to all expected counts, which is not
    shrunk: predictions of mean logarithms are too low for all genes. The variance is estimated from the totals of all
    genes, so that genes with few counts are shrunk most. The arguments are those of `posterior`.
    """
    measured, total = counts.sum(axis=0, dtype=float), (expected * exposure[:, None]).sum(axis=0, dtype=float)
    common = float(_ratio(measured.sum(), total.sum(), 1.0)) or 1.0
    total = total * common
    spread = _ratio(((measured - total) ** 2 - total).sum(), (total**2).sum(), 0.0)
    prior = 1 / max(float(spread), MIN_DISPERSION)
    return common * (measured + prior) / (total + prior)


def posterior(
    counts: np.ndarray,
    exposure: np.ndarray,
    expected: np.ndarray,
    spread: np.ndarray,
    *,
    most: float = USUAL_RATE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the expected log1p of the count of a gene at an exposure of 1, its mean rate, and the weight of its count.

    Counts are (n, genes), `exposure` is (n,), `expected` (n, genes) are rates, at most `most`, and `spread` (genes,) is
    the dispersion. All results are (n, genes).

    The rate is the posterior mean, ``weight * measured + (1 - weight) * expected``. Its logarithm would be higher than
    a mean of logarithms, and the more so the fewer counts a spot has. So the first result is the mean of log1p(k) over
    the count k of the gene in another measurement of the spot, of exposure 1. Given the counts, k is negative
    binomial. For every k,

        log1p(k) = ∫ (1 - (1 - t)^k) / -log(1 - t) dt  over t from 0 to 1

    whose mean has (1 + scale · t)^-shape in place of (1 - t)^k.
    """
    expected = np.maximum(expected, MIN_EXPECTED * expected.mean(axis=0))
    inverse = 1 / np.maximum(spread, MIN_DISPERSION)
    shape = inverse + counts
    scale = expected / (inverse + expected * exposure[:, None])
    n_nodes, power = USUAL if most <= USUAL_RATE else FINER
    nodes, steps = np.polynomial.legendre.leggauss(n_nodes)
    nodes, steps = (nodes + 1) / 2, steps / 2
    logs = np.zeros_like(scale)
    for t, step in zip(nodes**power, steps * power * nodes ** (power - 1), strict=True):
        logs += step / np.log1p(-t) * np.expm1(-shape * np.log1p(scale * t))
    return logs, shape * scale, scale * exposure[:, None]


def _ratio(above: np.ndarray | float, below: np.ndarray | float, otherwise: float) -> np.ndarray:
    above, below = np.broadcast_arrays(np.asarray(above, dtype=float), np.asarray(below, dtype=float))
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 0)
