from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot.errors import InputError

from .profiles import check_known, one_profile_each
from .resampling import FOLDS, Survival, resample

if TYPE_CHECKING:
    from anndata import AnnData

# Strengths of the penalty to choose from, as shares of the smallest with which all weights are 0.
STRENGTHS = (0.8, 0.6, 0.45, 0.34, 0.25, 0.19)


def survival(
    expression: AnnData,
    *,
    time: str,
    status: str,
    event: Any,
    patient: str,
    tissue_area: str | None = None,
    genes: Sequence[str] | None = None,
    n_train: int | Sequence[int] = (75, 100, 125),
    repeats: int = 100,
    l1_ratio: float = 0.5,
    seed: int | None = None,
) -> Survival:
    """Measure how well profiles tell who dies first.

    Patients are drawn at random to train on, in proportion to deaths, and all others are tested; this is repeated. In
    every split, a Cox regression with an elastic net is fitted to the standardized profiles. The strength of its
    penalty is the one of six with the highest concordance in 3-fold cross-validation of the training patients. Nothing
    of the tested patients is used.

    For every fit there is one with permuted outcomes: time and status are dealt out anew among all patients of the
    split. Its concordance has to be 0.5 on average, whatever the data.

    What `status` means is asserted: name the value of a patient who died as `event`. Tables disagree on it. In the
    column ``censorship`` of the TCGA tables, 1 is a patient who was *censored*, so that `event` is 0; the notebook that
    was published with the paper took those who lived for those who died.

    Parameters
    ----------
    expression
        Profiles on a log scale, such as of :func:`deepspot.cohort.pseudobulk`; clinical columns are in `obs`. Bulk RNA
        can be passed as ``AnnData(values, obs=clinical)``.
    time
        Column of `obs`: time to death, or until when a patient was seen.
    status
        Column with exactly two values, which tell who died from who was censored.
    event
        That of these values which means that the patient died.
    patient
        Column of the patient, who counts once.
    tissue_area
        Column by which the largest section of a patient is chosen; of equally large ones the first. Needed if a patient
        has several.
    genes
        Genes to offer, by default all. Those that any patient lacks are left out.
    n_train
        Numbers of patients to train on; those of the paper.
    repeats
        Random splits for each of them. The paper has 1,000.
    l1_ratio
        Above 0, and 1 for the lasso.
    seed
        Of splits, folds and permutations; None falls back to the settings.

    Returns
    -------
    The scores of all splits, and their summary.

    Raises
    ------
    KeyError
        If there is no such column or gene.
    TypeError
        If `expression` is no AnnData.
    ValueError
        If `status` has other than two values or `event` is none of them, an outcome is missing, a time is below 0,
        sections of one patient have different outcomes or none is known to be the largest, there are too few patients
        or deaths, or values are raw counts.

    References
    ----------
    DeepSpot, section 4.4.5. Harrell et al., JAMA 1982, for the concordance. Nadeau and Bengio, "Inference for the
    Generalization Error", Machine Learning 2003, for the corrected standard error. Cox regression by skglm.

    Examples
    --------
    >>> import deepspot as ds
    >>> profiles = ds.cohort.pseudobulk(slides)  # doctest: +SKIP
    >>> profiles.obs = profiles.obs.join(clinical, on="slide")  # doctest: +SKIP
    >>> ds.cohort.survival(
    ...     profiles, time="survival_months", status="censorship", event=0, patient="patient", tissue_area="spots"
    ... )  # doctest: +SKIP
    """
    if isinstance(l1_ratio, bool) or not 0 < l1_ratio <= 1:
        raise InputError(f"`l1_ratio` must be above 0 and at most 1, got {l1_ratio}.")
    X, obs, profiles = one_profile_each(
        expression, patient=patient, tissue_area=tissue_area, genes=genes, columns=[time, status], alike=True
    )
    times, events = _read_times(obs[time]), _read_events(obs[status], event)
    seed = settings.seed if seed is None else seed

    def score(X: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
        fitted = fit_cox(X[train], times[train], events[train], l1_ratio=l1_ratio, seed=seed)
        reached = concordance(times[test], events[test], fitted.risk(X[test]))
        chosen = int(np.count_nonzero(fitted.weights))
        return {Survival.SCORE: reached, "strength": fitted.strength, "genes_chosen": chosen}

    strata = pd.Series(np.where(events, "died", "censored"))
    table = resample(X, strata, score, n_train=n_train, repeats=repeats, seed=seed, what=f"obs[{status!r}]")
    patients = pd.DataFrame({"profile": profiles, "time": times, "died": events}, index=obs.index)
    result = Survival(table, patients, X.shape[1], seed, float(l1_ratio))
    logger.info("%r\nAs dead count patients with %s = %r.", result, status, event)
    return result


def _read_times(column: pd.Series) -> np.ndarray:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        shown = {str(who): value for who, value in column[wrong].iloc[:5].items()}
        raise InputError(
            f"obs[{column.name!r}] must be a time of 0 or more for every patient; {wrong.sum()} are missing or below "
            f"0, such as {shown}. Correct them, or leave these patients out."
        )
    return values


def _read_events(column: pd.Series, event: Any) -> np.ndarray:
    """Whether each patient (n,) died; the others are censored."""
    check_known(column)
    values = column.astype(object)
    counts = {value: int(number) for value, number in values.value_counts().items()}
    if len(counts) != 2:
        raise InputError(
            f"obs[{column.name!r}] must have two values, that of a patient who died and that of one who was censored; "
            f"the numbers of patients are {counts}. Make it a column of two values."
        )
    if event not in counts:
        raise InputError(
            f"`event` is {event!r}, but obs[{column.name!r}] holds {' and '.join(map(repr, counts))}; the numbers of "
            f"patients are {counts}. Pass the one that means that the patient died: in a column of deaths it is mostly "
            "1, in a column of censorship it is 0."
        )
    return (values == event).to_numpy(dtype=bool)


class Cox(NamedTuple):
    """A Cox regression of standardized profiles; all but the strength of its penalty is (genes,)."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    strength: float

    def risk(self, X: np.ndarray) -> np.ndarray:
        """Logarithm of the hazard (n,), relative to a patient with mean expression."""
        return (X - self.mean) / self.scale @ self.weights


def fit_cox(X: np.ndarray, times: np.ndarray, events: np.ndarray, *, l1_ratio: float, seed: int) -> Cox:
    """Fit with an elastic net to training patients (n, genes).

    The strength is the one with the highest concordance on folds of these patients. (The partial likelihood in
    cross-validation prefers stronger penalties, since it punishes risks that are in the right order but too far apart.)
    """
    from sklearn.model_selection import StratifiedKFold

    reached = np.zeros(len(STRENGTHS))
    for rows, rest in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, events):
        fits = _fit_path(X[rows], times[rows], events[rows], STRENGTHS, l1_ratio, tol=1e-3)
        found = [concordance(times[rest], events[rest], fitted.risk(X[rest])) for fitted in fits]
        reached += np.nan_to_num(found, nan=0.5)
    return _fit_path(X, times, events, [STRENGTHS[int(np.argmax(reached))]], l1_ratio, tol=1e-4)[0]


def _fit_path(
    X: np.ndarray, times: np.ndarray, events: np.ndarray, strengths: Sequence[float], l1_ratio: float, *, tol: float
) -> list[Cox]:
    """Fits of every strength."""
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
        # A fit of a weak penalty that has not quite arrived is a candidate like the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [
            CoxEstimator(alpha=share * strongest, l1_ratio=l1_ratio, method="efron", tol=tol).fit(Z, y)
            for share in strengths
        ]
    return [Cox(mean, scale, model.coef_, share) for model, share in zip(models, strengths, strict=True)]


def concordance(times: np.ndarray, events: np.ndarray, risk: np.ndarray) -> float:
    """Harrell's concordance index: in which share of pairs the patient with the higher risk dies first.

    A pair counts if it is known who died first: one died, and the other was alive at that time, even if only just.
    Two who died at the same time are no pair. Equal risks count half. NaN if no pair counts, where lifelines raises.
    """
    first, second = times[:, None], times[None, :]
    pairs = events[:, None] & ((first < second) | ((first == second) & ~events[None, :]))
    if not pairs.any():
        return float("nan")
    higher, equal = risk[:, None] > risk[None, :], risk[:, None] == risk[None, :]
    return float((higher[pairs].sum() + 0.5 * equal[pairs].sum()) / pairs.sum())
