"""Cox regression with an elastic net; the strength of the penalty comes from the training patients alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from .resampling import FOLDS

STRENGTHS = (0.8, 0.6, 0.45, 0.34, 0.25, 0.19)
"""Strengths to choose from, as shares of the smallest with which all weights are 0."""


@dataclass(frozen=True, eq=False)
class Cox:
    """A fitted regression.

    Attributes
    ----------
    mean, scale
        (genes,) with which profiles are standardised.
    weights
        (genes,) of the standardised profiles.
    strength
        Of the penalty, one of `STRENGTHS`.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    strength: float

    def risk(self, X: np.ndarray) -> np.ndarray:
        """Logarithm of the hazard (n,) beside that of a patient with mean expression."""
        return (X - self.mean) / self.scale @ self.weights


def fit(X: np.ndarray, time: np.ndarray, died: np.ndarray, *, l1_ratio: float, seed: int) -> Cox:
    """Fit to training patients.

    The strength is the one with the highest concordance on folds of these patients. (The partial likelihood in
    cross-validation prefers stronger penalties, since it punishes risks that are in the right order but too far apart.)

    Parameters
    ----------
    X
        (n, genes).
    time, died
        (n,) outcomes.
    l1_ratio
        From the ridge (0, excluded) to the lasso (1).
    seed
        Of the folds.
    """
    from sklearn.model_selection import StratifiedKFold

    reached = np.zeros(len(STRENGTHS))
    for rows, rest in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, died):
        mean, scale = _standard(X[rows])
        fits = _path((X[rows] - mean) / scale, time[rows], died[rows], STRENGTHS, l1_ratio, tol=1e-3)
        found = [concordance(time[rest], died[rest], (X[rest] - mean) / scale @ weights) for weights in fits]
        reached += np.nan_to_num(found, nan=0.5)
    best = STRENGTHS[int(np.argmax(reached))]
    mean, scale = _standard(X)
    return Cox(mean, scale, _path((X - mean) / scale, time, died, [best], l1_ratio, tol=1e-4)[0], best)


def _standard(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = X.std(axis=0)
    return X.mean(axis=0), np.where(spread > 1e-12, spread, 1.0)


def _path(
    Z: np.ndarray, time: np.ndarray, died: np.ndarray, strengths: Any, l1_ratio: float, *, tol: float
) -> list[np.ndarray]:
    """Weights for every strength."""
    from skglm import CoxEstimator
    from skglm.datafits import Cox as Likelihood
    from sklearn.exceptions import ConvergenceWarning

    Z, y = np.asfortranarray(Z), np.column_stack([time, died]).astype(np.float64)
    likelihood = Likelihood(use_efron=True)
    likelihood.initialize(Z, y)
    strongest = np.abs(Z.T @ likelihood.raw_grad(y, np.zeros(len(y)))).max() / l1_ratio
    if strongest < 1e-12:
        return [np.zeros(Z.shape[1]) for _ in strengths]
    with warnings.catch_warnings():
        # A fit of a weak penalty that has not quite arrived is a candidate like the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            CoxEstimator(alpha=share * strongest, l1_ratio=l1_ratio, method="efron", tol=tol).fit(Z, y).coef_
            for share in strengths
        ]


def concordance(time: np.ndarray, died: np.ndarray, risk: np.ndarray) -> float:
    """Harrell's concordance index: in which share of pairs the patient with the higher risk dies first.

    A pair counts if it is known who died first: one died, and the other was alive at that time, even if only just.
    Two who died at the same time are no pair. Equal risks count half.

    Parameters
    ----------
    time, died, risk
        (n,) of patients; `died` is bool, False if censored at this time.

    Returns
    -------
    From 0 to 1; NaN if no pair counts.
    """
    first, second = time[:, None], time[None, :]
    pairs = died[:, None] & ((first < second) | ((first == second) & ~died[None, :]))
    if not pairs.any():
        return float("nan")
    higher, equal = risk[:, None] > risk[None, :], risk[:, None] == risk[None, :]
    return float((higher[pairs].sum() + 0.5 * equal[pairs].sum()) / pairs.sum())
