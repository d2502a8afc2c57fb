from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_seed
from deepspot.errors import InputError, MissingPackageError

from .profiles import check_known, one_profile_each
from .resampling import FOLDS, Survival, resample

if TYPE_CHECKING:
    from anndata import AnnData

# Candidate strengths of the penalty, as shares of the smallest strength that sets all weights to 0.
STRENGTHS = (0.8, 0.6, 0.45, 0.34, 0.25, 0.19)


@checked
def survival(
    expression: AnnData,
    *,
    time_key: str,
    status_key: str,
    event: Any,
    patient_key: str,
    tissue_area_key: str | None = None,
    genes: Sequence[str] | None = None,
    n_train: int | Sequence[int] = (75, 100, 125),
    n_repeats: int = 100,
    l1_ratio: float = 0.5,
    seed: int | None = None,
) -> Survival:
    """Measure how well profiles predict survival.

    Patients are split at random into training and test patients, stratified by the event, and this is repeated. For
    each split, a Cox regression with an elastic net is fitted to the standardized profiles of the training patients.
    The strength of the penalty is the one of six with the highest concordance in a 3-fold cross-validation of the
    training patients. The fit does not use the test patients.

    A control with permuted outcomes is fitted for each split: time and status are permuted together among all patients.
    Its concordance is 0.5 on average for any data.

    The coding of `status_key` differs between tables, so `event` has no default. In the column ``censorship`` of the
    TCGA tables, 1 is a *censored* patient, so that `event` is 0. The published notebook of the paper uses the inverted
    coding.

    Parameters
    ----------
    expression
        Profiles on a log scale, for example from :func:`deepspot.cohort.pseudobulk`, with clinical columns in `obs`.
        Pass bulk RNA as ``AnnData(values, obs=clinical)``.
    time_key
        Column of `obs` with the time to the event, or to the last follow-up.
    status_key
        Column of `obs` with exactly two values, for event and censored.
    event
        Value of `status_key` that means that the event (death) occurred.
    patient_key
        Column of `obs` with the patient. Each patient is used once.
    tissue_area_key
        Column of `obs` with the size of the section: the largest section of a patient is used, the first if several are
        equally large. Needed if a patient has several.
    genes
        Genes to use, by default all. Genes that are missing for any patient are left out.
    n_train
        Numbers of training patients. The default is that of the paper.
    n_repeats
        Number of random splits for each number of training patients. The paper used 1,000.
    l1_ratio
        Share of the L1 penalty: above 0, at most 1 (lasso).
    seed
        Seed of splits, folds and permutations; None uses the settings.

    Returns
    -------
    Scores of all splits, and their summary.

    Raises
    ------
    ImportError
        If skglm is not installed.
    KeyError
        If a column or gene does not exist.
    TypeError
        If `expression` is not an AnnData.
    ValueError
        If `status_key` does not have two values, `event` is not one of them, an outcome is missing, a time is negative,
        sections of one patient have different outcomes, the largest section is unknown, there are too few patients
        or events, or values are raw counts.

    References
    ----------
    DeepSpot, section 4.4.5. Harrell et al., JAMA 1982 (concordance). Nadeau and Bengio, "Inference for the
    Generalization Error", Machine Learning 2003 (corrected standard error). The Cox regression is that of skglm.

    Examples
    --------
    >>> import deepspot as ds
    >>> profiles = ds.cohort.pseudobulk(slides)  # doctest: +SKIP
    >>> profiles.obs = profiles.obs.join(clinical, on="slide")  # doctest: +SKIP
    >>> keys = {"time_key": "survival_months", "status_key": "censorship", "patient_key": "patient"}
    >>> ds.cohort.survival(profiles, event=0, tissue_area_key="spots", **keys)  # doctest: +SKIP
    """
    from importlib.util import find_spec

    if find_spec("skglm") is None:
        raise MissingPackageError('`ds.cohort.survival` needs the package skglm: `pip install ".[survival]"`.')
    if isinstance(l1_ratio, bool) or not 0 < l1_ratio <= 1:
        raise InputError(f"`l1_ratio` must be above 0 and at most 1, got {l1_ratio}.")
    X, obs, profiles = one_profile_each(
        expression,
        patient_key=patient_key,
        tissue_area_key=tissue_area_key,
        genes=genes,
        outcome_keys=[time_key, status_key],
        same_outcome=True,
    )
    times, events = _read_times(obs[time_key]), _read_events(obs[status_key], event)
    seed = check_seed(seed)

    def score(X: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
        fitted = fit_cox(X[train], times[train], events[train], l1_ratio=l1_ratio, seed=seed)
        reached = concordance(times[test], events[test], fitted.risk(X[test]))
        chosen = int(np.count_nonzero(fitted.weights))
        return {Survival.SCORE: reached, "strength": fitted.strength, "genes_chosen": chosen}

    strata = pd.Series(np.where(events, "event", "censored"))
    table = resample(X, strata, score, n_train=n_train, n_repeats=n_repeats, seed=seed, what=f"obs[{status_key!r}]")
    patients = pd.DataFrame({"profile": profiles, "time": times, "event": events}, index=obs.index)
    result = Survival(table, patients, X.shape[1], seed, float(l1_ratio))
    logger.info("%r\nEvents are patients with %s = %r.", result, status_key, event)
    return result


def _read_times(column: pd.Series) -> np.ndarray:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        shown = {str(patient): value for patient, value in column[wrong].iloc[:5].items()}
        raise InputError(
            f"obs[{column.name!r}] must be a time of 0 or more for every patient; {wrong.sum()} are missing or below "
            f"0, such as {shown}. Correct them, or leave these patients out."
        )
    return values


def _read_events(column: pd.Series, event: Any) -> np.ndarray:
    """Return whether each patient (n,) had the event; the others are censored."""
    check_known(column)
    values = column.astype(object)
    counts = {value: int(number) for value, number in values.value_counts().items()}
    if len(counts) != 2:
        raise InputError(
            f"obs[{column.name!r}] must have two values, one for the event and one for censored patients; the numbers "
            f"of patients are {counts}. Make it a column of two values."
        )
    if not isinstance(event, Hashable) or event not in counts:
        raise InputError(
            f"`event` is {event!r}, but obs[{column.name!r}] holds {' and '.join(map(repr, counts))}; the numbers of "
            f"patients are {counts}. Pass the value of patients who died: mostly 1 in a column of deaths, and 0 in a "
            "column of censorship."
        )
    return (values == event).to_numpy(dtype=bool)


class Cox(NamedTuple):
    """Cox regression of standardized profiles; mean, scale and weights are (genes,)."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    strength: float

    def risk(self, X: np.ndarray) -> np.ndarray:
        """Return the log hazard ratio (n,) relative to a patient with mean expression."""
        return (X - self.mean) / self.scale @ self.weights


def fit_cox(X: np.ndarray, times: np.ndarray, events: np.ndarray, *, l1_ratio: float, seed: int) -> Cox:
    """Fit with the penalty that has the highest concordance in cross-validation of X (patients, genes).

    The cross-validated partial likelihood prefers stronger penalties, because it penalizes risks that are in the right
    order but too far apart.
    """
    from sklearn.model_selection import StratifiedKFold

    reached = np.zeros(len(STRENGTHS))
    for rows, rest in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, events):
        fits = fit_path(X[rows], times[rows], events[rows], STRENGTHS, l1_ratio, tol=1e-3)
        scores = [concordance(times[rest], events[rest], fitted.risk(X[rest])) for fitted in fits]
        reached += np.nan_to_num(scores, nan=0.5)
    return fit_path(X, times, events, [STRENGTHS[int(np.argmax(reached))]], l1_ratio, tol=1e-4)[0]


def fit_path(
    X: np.ndarray, times: np.ndarray, events: np.ndarray, strengths: Sequence[float], l1_ratio: float, *, tol: float
) -> list[Cox]:
    """Fit once for each strength of the penalty."""
    from skglm import CoxEstimator
    from skglm.datafits import Cox as Likelihood
    from sklearn.exceptions import ConvergenceWarning

    mean, spread = X.mean(axis=0), X.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    Z, y = np.asfortranarray((X - mean) / scale), np.column_stack([times, events]).astype(np.float64)
    likelihood = Likelihood(use_efron=True)
    likelihood.initialize(Z, y)
    strongest = np.abs(Z.T @ likelihood.raw_grad(y, np.zeros(len(y)))).max() / l1_ratio
    if strongest < 1e-12:
        return [Cox(mean, scale, np.zeros(Z.shape[1]), share) for share in strengths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties may not converge; they stay candidates
        models = [
            CoxEstimator(alpha=share * strongest, l1_ratio=l1_ratio, method="efron", tol=tol).fit(Z, y)
            for share in strengths
        ]
    return [Cox(mean, scale, model.coef_, share) for model, share in zip(models, strengths, strict=True)]


def concordance(times: np.ndarray, events: np.ndarray, risk: np.ndarray) -> float:
    """Return Harrell's concordance index: the share of pairs where the higher risk has the earlier event.

    A pair counts if one patient has the event and the other is observed longer, or censored at the same time. Equal
    risks count half. NaN if no pair counts, where lifelines raises.
    """
    first, second = times[:, None], times[None, :]
    pairs = events[:, None] & ((first < second) | ((first == second) & ~events[None, :]))
    if not pairs.any():
        return float("nan")
    higher, equal = risk[:, None] > risk[None, :], risk[:, None] == risk[None, :]
    return float((higher[pairs].sum() + 0.5 * equal[pairs].sum()) / pairs.sum())
