"""Interval of r on the next slide of a new patient, with variances that are moderated over genes."""

from __future__ import annotations

import numpy as np
import pandas as pd

LEVEL = 0.9
FEWEST_PATIENTS = 3
# Largest |r| before Fisher's transformation, which is infinite at 1.
MOST_R = 0.999
# Smallest variance, relative to the median over genes: logarithms of smaller ones would dominate the fit.
LEAST = 1e-5
# Genes of which all r are equal have no variance.
LEAST_SQUARES = 1e-12
# Half the degrees of freedom of the prior.
LEAST_PRIOR, MOST_PRIOR = 0.01, 1e6


def next_slide_interval(r: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 90 % prediction interval, two (genes,), of r on a slide of a patient that is not among `patients`.

    `r` (slides, genes) is Pearson r in every slide of every patient, NaN where a gene is constant. After Fisher's
    transformation, the variance of a new slide is the sum of

    - the variance of patients that all genes share, because a patient may be hard to predict as a whole,
    - the variance of patients that is specific to the gene,
    - the variance of slides within patients, unless all patients have a single slide.

    The last two are moderated over genes (:func:`squeeze`): estimated from a few patients, they would be far too small
    for some genes by chance. The degrees of freedom of the sum are Satterthwaite's. NaN for a gene that varies in fewer
    than three patients.
    """
    from scipy.stats import t

    z = np.arctanh(np.clip(r, -MOST_R, MOST_R))
    codes = np.unique(patients, return_inverse=True)[1].ravel()
    of_patient = codes == np.arange(codes.max() + 1)[:, None]
    slides = of_patient.astype(int) @ np.isfinite(z)
    chosen = np.count_nonzero(slides, axis=0) >= FEWEST_PATIENTS
    low, high = np.full((2, z.shape[1]), np.nan)
    if not chosen.any():
        return low, high
    z, slides = z[:, chosen], slides[:, chosen]
    by_patient = pd.DataFrame(z).groupby(codes).mean().to_numpy()
    n, mean = np.count_nonzero(slides, axis=0), _mean(by_patient)
    shared = _mean((by_patient - mean).T)
    residual = by_patient - mean - shared[:, None]
    residual -= _mean(residual)
    specific, df = squeeze(np.nansum(residual**2, axis=0), n - 1)
    # A new patient, and the error of the mean over n patients.
    factor = 1 + 1 / n
    parts = [(np.nanvar(shared, ddof=1) * factor, np.isfinite(shared).sum() - 1), (specific * factor, df)]
    if (slides > 1).any():
        within, df = squeeze(np.nansum((z - by_patient[codes]) ** 2, axis=0), slides.sum(axis=0) - n)
        # The mean over k slides of a patient includes 1/k of this variance.
        included = np.divide(1, slides, out=np.zeros(slides.shape), where=slides > 0).sum(axis=0) / n
        parts.append((within * (1 - included), df))
    variance = np.sum([part for part, _ in parts], axis=0)
    df = variance**2 / np.sum([part**2 / df for part, df in parts], axis=0)
    half = t.ppf((1 + LEVEL) / 2, df) * np.sqrt(variance)
    low[chosen], high[chosen] = np.tanh(mean - half), np.tanh(mean + half)
    return low, high


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the means of columns over known values, NaN where there are none."""
    return pd.DataFrame(values).mean().to_numpy()


def squeeze(squares: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moderate variances over genes by empirical Bayes, and return them with their degrees of freedom.

    `squares` (genes,) are sums of squares with `df` degrees of freedom. The prior is a scaled inverse chi-squared
    distribution, fitted by the mean and variance of the log variances. A gene without degrees of freedom gets the
    prior.

    References
    ----------
    Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments",
    Statistical Applications in Genetics and Molecular Biology 2004: `squeezeVar` of limma.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    squares, known = np.maximum(squares, LEAST_SQUARES), df > 0
    if known.sum() < 2:
        return squares / np.maximum(df, 1), df
    variance, half = squares[known] / df[known], df[known] / 2
    logs = np.log(np.maximum(variance, LEAST * np.median(variance))) - digamma(half) + np.log(half)
    # The variance of log variances in excess of chance is the trigamma function of half the degrees of freedom.
    excess = min(logs.var(ddof=1) - polygamma(1, half).mean(), polygamma(1, LEAST_PRIOR))
    if excess <= polygamma(1, MOST_PRIOR):  # one variance for all genes
        prior, center = 2 * MOST_PRIOR, squares[known].sum() / df[known].sum()
    else:
        prior = 2 * brentq(lambda x: polygamma(1, x) - excess, LEAST_PRIOR / 2, 2 * MOST_PRIOR)
        center = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    return (prior * center + squares) / (prior + df), prior + df
