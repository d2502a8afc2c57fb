"""Scores of predictions, their means over genes and patients, and bootstrap statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deepspot._stats.metrics import pearson
from deepspot.errors import InputError

# Side that did not vary. The codes are stored in files.
UNDEFINED = ("no", "prediction", "measurement")
NO, PREDICTION, MEASUREMENT = range(3)
N_BOOTSTRAP = 10_000
PERCENTILES = (2.5, 97.5)
# Genes times resamples in memory at once.
CHUNK = 5_000_000


def score(predicted: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Pearson r (genes,) of two (n, genes) matrices, and the code of the side that made it undefined.

    That is the measurement if it is constant over its known spots, and the prediction if it is constant or not finite
    on these spots.
    """
    known = np.isfinite(measured)
    flat = _constant(measured, known) | (known.sum(axis=0) < 2)
    silent = (known & ~np.isfinite(predicted)).any(axis=0) | _constant(predicted, known)
    r = np.where(flat | silent, np.nan, pearson(np.where(known, predicted, np.nan), measured))
    return r, np.select([flat, ~np.isfinite(r)], [MEASUREMENT, PREDICTION], NO).astype(np.uint8)


def _constant(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, values, -np.inf).max(axis=0) <= np.where(known, values, np.inf).min(axis=0)


def filled(r: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    """Return r for use in means: 0 where the prediction made it undefined, NaN where the measurement did."""
    return np.select([undefined == NO, undefined == PREDICTION], [r, 0.0], np.nan)


def clip(top: Sequence[int], n_genes: int) -> np.ndarray:
    """Return the numbers of genes of a curve; those above `n_genes` become `n_genes`, once."""
    return np.unique(np.minimum(top, n_genes))


def curve(values: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return the mean of the first so many of `values` (genes,), best gene first; NaN where none is known."""
    known = np.isfinite(values)
    total, count = np.cumsum(np.where(known, values, 0.0))[top - 1], np.cumsum(known)[top - 1]
    return np.divide(total, count, out=np.full(len(top), np.nan), where=count > 0)


def area(top: np.ndarray, means: np.ndarray) -> float:
    """Return the area under a curve divided by its width, a mean r; NaN where nothing is known."""
    known = np.isfinite(means)
    if not known.any():
        return float("nan")
    top, means = top[known], means[known]
    return float(means[0] if len(top) == 1 else np.trapezoid(means, top) / (top[-1] - top[0]))


def mean_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of the finite values along the first axis; NaN where there are none."""
    stacked = np.asarray(values, dtype=float)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    return np.divide(np.where(known, stacked, 0).sum(axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)


def draws(n: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Return bootstrap samples (n_bootstrap, n) of n folds. They depend on the seed alone: models stay paired."""
    if n_bootstrap < 2:
        raise InputError(f"`n_bootstrap` must be at least 2, got {n_bootstrap}.")
    return np.random.default_rng(seed).integers(n, size=(n_bootstrap, n))


def spread(samples: np.ndarray) -> tuple[float, float, float]:
    """Return the standard error and the 95 % interval of a statistic from its bootstrap samples."""
    low, high = np.percentile(samples, PERCENTILES)
    return float(samples.std(ddof=1)), float(low), float(high)


def p_value(differences: np.ndarray, n: int) -> float:
    """Return the two-sided p of a difference from its bootstrap samples over n folds.

    A bootstrap of a few folds with the same sign never crosses 0. Therefore p is at least 2^(1 - n), the smallest value
    of a sign-flip test with n differences.
    """
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(np.clip(2 * (beyond + 1) / (len(differences) + 1), 2.0 ** (1 - n), 1))


def compare(values: pd.DataFrame, null: np.ndarray, baseline: str, samples: np.ndarray) -> pd.DataFrame:
    """Compare models (rows of `values`, folds in columns) with a baseline, with bootstrap samples of the folds.

    `null` is which of the models are null models. See :meth:`deepspot.models.CrossValidation.compare`.
    """
    from statsmodels.stats.multitest import multipletests

    mean_rank = values[~null | (values.index == baseline)].rank(ascending=False).mean(axis=1)
    rows = {}
    for model in values.index[~null].drop(baseline, errors="ignore"):
        difference = (values.loc[model] - values.loc[baseline]).to_numpy()
        drawn = difference[samples].mean(axis=1)
        se, low, high = spread(drawn)
        rows[model] = {
            "difference": difference.mean(),
            "se": se,
            "low": low,
            "high": high,
            "won": int((difference > 0).sum()),
            "folds": len(difference),
            "p": p_value(drawn, len(difference)),
            "mean_rank": mean_rank[model],
        }
    columns = ["difference", "se", "low", "high", "won", "folds", "p", "mean_rank"]
    found = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="model"), columns=columns)
    adjusted = multipletests(found["p"], method="holm")[1] if rows else []
    found.insert(columns.index("p") + 1, "p_adjusted", adjusted)
    return found


def gene_intervals(r: np.ndarray, n_bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval, two (genes,), of the mean of r (patients, genes) over resampled patients.

    A mean is over the patients with a known r; NaN for a gene with fewer than two of them.
    """
    n, n_genes = r.shape
    known = np.isfinite(r)
    values = np.where(known, r, 0.0)
    samples = draws(n, n_bootstrap, seed)
    weights = np.stack([(samples == patient).sum(axis=1) for patient in range(n)], axis=1).astype(float)
    low, high = np.full(n_genes, np.nan), np.full(n_genes, np.nan)
    several = np.flatnonzero(known.sum(axis=0) > 1)
    for genes in np.array_split(several, max(1, -(-len(several) * n_bootstrap // CHUNK))):
        count = known[:, genes].T @ weights.T
        means = np.divide(values[:, genes].T @ weights.T, count, out=np.full(count.shape, np.nan), where=count > 0)
        # Some samples have no patient with the gene. `nanpercentile` is slow, so only these genes need it.
        always = known[:, genes].all(axis=0)
        for some, percentile in ((always, np.percentile), (~always, np.nanpercentile)):
            if some.any():
                low[genes[some]], high[genes[some]] = percentile(means[some], PERCENTILES, axis=1, overwrite_input=True)
    return low, high
