"""Measured counts and predicted expression, combined by how far each may be off. Arrays in, arrays out.

The true rate of a gene in a spot, in counts per 10,000, has a Gamma distribution about what the prediction lets expect,
whose squared coefficient of variation is the gene's dispersion; counts are Poisson about the true rate times the
exposure of the spot (its depth in units of 10,000 counts). Then counts are negative binomial about the prediction, and
the mean of the true rate, given the counts, is a mixture of the measured and the expected rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# Even a gene whose prediction seemed free of error is measured at some depth; keeps the measurement from being ignored.
LEAST = 1e-3
# A prediction of 0 would be certain of itself, and no count could change it: for the weight none is below this share of
# the gene's mean.
LOWEST = 0.05


def residuals(slides: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """How true rates lie about predicted ones: their dispersion within slides, and their level.

    The dispersion is Σ((k - μ)² - μ) / Σμ² over all spots, where μ is what a prediction lets expect as counts k.
    Poisson noise has the variance μ, so that it cancels: the residual variance less counting noise, relative to the
    square of the mean. μ is brought to the slide's level of the gene beforehand.

    The level is Σk / Σμ before that. It is above 1, as the exponential of a mean of logarithms lies below the mean.

    Each slide is counts (n, genes), exposure (n,) and predicted rate (n, genes) in counts per 10,000, by a fit that had
    not seen it; NaN where there is no prediction or measurement. Dispersion is at least 0, both are (genes,) float64,
    and NaN for a gene that no slide shows.
    """
    excess, square, seen, hoped = 0.0, 0.0, 0.0, 0.0
    for counts, exposure, rate in slides:
        known = np.isfinite(rate) & np.isfinite(counts)
        k = np.where(known, counts, 0.0)
        expected = np.where(known, rate, 0.0) * exposure[:, None]
        total, measured = expected.sum(axis=0), k.sum(axis=0)
        seen, hoped = seen + measured, hoped + total
        expected = expected * _ratio(measured, total, 0.0)
        excess = excess + ((k - expected) ** 2 - expected).sum(axis=0)
        square = square + (expected**2).sum(axis=0)
    return np.maximum(_ratio(excess, square, np.nan), 0), _ratio(seen, np.where(np.asarray(seen) > 0, hoped, 0), np.nan)


def level_shift(counts: np.ndarray, exposure: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How much higher the level of a gene is on this slide than expected: a factor (genes,), shrunk towards 1.

    Stain, tissue and protocol shift whole genes, and a slide's total tells such a shift even where its spots are
    shallow. What is expected may also be too low throughout: a model that learned means of logarithms predicts lower
    rates than counts have. The shifts of all genes have a Gamma distribution with mean 1, whose variance is taken from
    these very totals, so that a gene is shrunk only as far as its own total is too small to tell. Arguments are those
    of `posterior`.
    """
    measured, total = counts.sum(axis=0, dtype=float), (expected * exposure[:, None]).sum(axis=0, dtype=float)
    spread = _ratio(((measured - total) ** 2 - total).sum(), (total**2).sum(), 0.0)
    prior = 1 / max(float(spread), LEAST)
    return (measured + prior) / (total + prior)


def posterior(
    counts: np.ndarray, exposure: np.ndarray, expected: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the true rate (n, genes), given counts and an expectation, and the weight (n, genes) of the measurement.

    Counts are (n, genes), `exposure` (n,) is in units of 10,000 counts, `expected` (n, genes) counts per 10,000, and
    `spread` (genes,) the dispersion. A spot without any exposure gets what is expected. The rate is
    ``weight * measured + (1 - weight) * expected``.
    """
    believed = np.maximum(expected, LOWEST * expected.mean(axis=0))
    odds = believed * exposure[:, None] * np.maximum(spread, LEAST)
    weight = odds / (1 + odds)
    return weight * _ratio(counts, exposure[:, None], 0.0) + (1 - weight) * expected, weight


def _ratio(above: np.ndarray | float, below: np.ndarray | float, otherwise: float) -> np.ndarray:
    above, below = np.broadcast_arrays(np.asarray(above, dtype=float), np.asarray(below, dtype=float))
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 0)
