"""Agreement of one prediction with one measurement, and what is made of it where it is undefined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepspot._stats.metrics import pearson

# Which side did not vary. Codes are kept in files.
UNDEFINED = ("no", "prediction", "measurement")
NO, PREDICTION, MEASUREMENT = range(3)


def score(predicted: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pearson r (genes,) of two (n, genes) matrices, and a code for what made it undefined.

    A measurement that does not vary over the spots it knows cannot be predicted by anybody. A prediction that does not
    vary over these, or is not finite on one of them, is the model's fault.
    """
    known = np.isfinite(measured)
    lost = known.sum(axis=0) < 2
    flat = _constant(measured, known) | lost
    silent = (known & ~np.isfinite(predicted)).any(axis=0) | _constant(predicted, known)
    r = np.where(flat | silent, np.nan, pearson(np.where(known, predicted, np.nan), measured))
    return r, np.select([flat, ~np.isfinite(r)], [MEASUREMENT, PREDICTION], NO).astype(np.uint8)


def filled(r: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    """R as it goes into a mean: 0 where the prediction made it undefined, NaN where the measurement did."""
    return np.select([undefined == NO, undefined == PREDICTION], [r, 0.0], np.nan)


def clip(top: Sequence[int], n_genes: int) -> np.ndarray:
    """Numbers of genes of a curve; those above the genes in hand become all genes, once."""
    return np.unique(np.minimum(top, n_genes))


def curve(values: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Mean of `values` (genes,), best gene first, over the first so many; NaN where none of them is known."""
    known = np.isfinite(values)
    total, count = np.cumsum(np.where(known, values, 0.0))[top - 1], np.cumsum(known)[top - 1]
    return np.divide(total, count, out=np.full(len(top), np.nan), where=count > 0)


def area(top: np.ndarray, means: np.ndarray) -> float:
    """Area under a curve by its width: a mean r in which every number of genes counts as its distance to the next."""
    known = np.isfinite(means)
    if not known.any():
        return float("nan")
    top, means = top[known], means[known]
    return float(means[0] if len(top) == 1 else np.trapezoid(means, top) / (top[-1] - top[0]))


def mean_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the first axis of what is known; NaN where nothing is."""
    stacked = np.asarray(values, dtype=float)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    return np.divide(np.where(known, stacked, 0).sum(axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)


def _constant(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    high, low = np.where(known, values, -np.inf).max(axis=0), np.where(known, values, np.inf).min(axis=0)
    return high <= low
