"""Who died when: what the status of a patient means is asserted, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot._core.settings import settings

from .cox import concordance, fit
from .resampling import check_sizes, resample
from .results import Survival
from .rows import one_each

if TYPE_CHECKING:
    from anndata import AnnData


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
    every split, a Cox regression with an elastic net is fitted to the standardised profiles. The strength of its
    penalty is the one of six with the highest concordance in 3-fold cross-validation of the training patients. Nothing
    of the tested patients is used.

    Beside every fit stands one with permuted outcomes: time and status are dealt out anew among all patients of the
    split. Its concordance has to be 0.5 on average, whatever the data.

    What `status` means is asserted: name the value of a patient who died as `event`. Tables disagree on it. In the
    column ``censorship`` of the TCGA tables, 1 is a patient who was *censored*, so that `event` is 0; the notebook that
    was published with the paper took those who lived for those who died.

    Parameters
    ----------
    expression
        Profiles on a log scale, such as of :func:`deepspot.tl.pseudobulk`; clinical columns are in `obs`. Bulk RNA can
        be passed as ``AnnData(values, obs=clinical)``.
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
    >>> profiles = ds.tl.pseudobulk(slides)  # doctest: +SKIP
    >>> profiles.obs = profiles.obs.join(clinical, on="slide")  # doctest: +SKIP
    >>> ds.tl.survival(
    ...     profiles, time="survival_months", status="censorship", event=0, patient="patient", tissue_area="spots"
    ... )  # doctest: +SKIP
    """
    if isinstance(l1_ratio, bool) or not 0 < l1_ratio <= 1:
        raise ValueError(f"`l1_ratio` must be above 0 and at most 1, got {l1_ratio}.")
    patients = one_each(
        expression, patient=patient, tissue_area=tissue_area, genes=genes, columns=[time, status], alike=True
    )
    known = outcome(patients.obs, time=time, status=status, event=event)
    fate = pd.Series(np.where(known.died, "died", "censored"), index=patients.obs.index)
    sizes = check_sizes(n_train, repeats, fate, f"obs[{status!r}]")
    seed = settings.seed if seed is None else seed

    def score(X: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
        fitted = fit(X[train], known.time[train], known.died[train], l1_ratio=l1_ratio, seed=seed)
        reached = concordance(known.time[test], known.died[test], fitted.risk(X[test]))
        chosen = int(np.count_nonzero(fitted.weights))
        return {"concordance": reached, "strength": fitted.strength, "genes_chosen": chosen}

    table = resample(
        patients.X, known.died, score, n_train=sizes, repeats=repeats, seed=seed, name=Survival.SCORE
    )  # fmt: skip
    read = pd.DataFrame({"profile": patients.profiles, "time": known.time, "died": known.died}, index=fate.index)
    result = Survival(table, read, patients.X.shape[1], seed, float(l1_ratio))
    logger.info("%r\nAs dead count patients with %s = %r.", result, status, event)
    return result


TWO = 2


@dataclass(frozen=True, eq=False)
class Outcome:
    """Outcome of patients.

    Attributes
    ----------
    time
        (n,) float64, to death or to when a patient was last seen.
    died
        (n,) bool; False is censored.
    """

    time: np.ndarray
    died: np.ndarray


def outcome(obs: pd.DataFrame, *, time: str, status: str, event: Any) -> Outcome:
    """Read the outcome of patients.

    Parameters
    ----------
    obs
        By the name of the patient.
    time, status
        Columns of it.
    event
        The value of `status` that means that the patient died.
    """
    return Outcome(_times(obs[time], time), _died(obs[status], status, event))


def _times(column: pd.Series, name: str) -> np.ndarray:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        shown = {str(who): value for who, value in column[wrong].iloc[:5].items()}
        raise ValueError(
            f"obs[{name!r}] must be a time of 0 or more for every patient; {wrong.sum()} are missing or below 0, such "
            f"as {shown}. Correct them, or leave these patients out."
        )
    return values


def _died(column: pd.Series, name: str, event: Any) -> np.ndarray:
    missing = column.isna()
    if missing.any():
        raise ValueError(
            f"obs[{name!r}] is missing for {missing.sum()} patients, such as {list(column.index[missing][:5])}. Fill "
            "it in, or leave them out."
        )
    values = column.astype(object)
    counts = {value: int(number) for value, number in values.value_counts().items()}
    if len(counts) != TWO:
        raise ValueError(
            f"obs[{name!r}] must have two values, that of a patient who died and that of one who was censored; the "
            f"numbers of patients are {counts}. Make it a column of two values."
        )
    if event not in counts:
        raise ValueError(
            f"`event` is {event!r}, but obs[{name!r}] holds {' and '.join(map(repr, counts))}; the numbers of patients "
            f"are {counts}. Pass the one that means that the patient died: in a column of deaths it is mostly 1, in a "
            "column of censorship it is 0."
        )
    return (values == event).to_numpy(dtype=bool)
