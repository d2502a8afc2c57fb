from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from deepspot._core.keys import AGREEMENT, UNS, checked, one_key
from deepspot._core.validate import check_count, check_seed
from deepspot._sdata.tables import evaluated_tables
from deepspot._stats.agreement import MEANS, OF_VALUES
from deepspot.errors import MissingKeyError
from deepspot.models._cross_validation.measures import MEASURES, by_slide, tidy_measures
from deepspot.models._cross_validation.result import CrossValidation
from deepspot.models._cross_validation.statistics import N_BOOTSTRAP
from deepspot.models._training.slides import as_mapping, patients_of, slide_columns, text_of_slides

if TYPE_CHECKING:
    from spatialdata import SpatialData

NAMES = [*MEASURES[:3], "r_depth", *MEANS, *OF_VALUES, *MEASURES[3:], "coverage", "ari", "ari_shifted"]


@checked
def evaluation(
    results: CrossValidation | SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    groupby: str | Mapping[str, str] | pd.Series | None = None,
    patient_key: str | Mapping[str, str] | pd.Series | None = None,
    prediction_key: str | None = None,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int | None = None,
) -> pd.DataFrame:
    """Return all measures of agreement of a cross-validation, or of evaluated slides, in one tidy table.

    With `groupby`, such as the institution, there is one part for each group of held-out slides and each group, or
    combination of groups, that the model learned from: a table of transfer. A difference between groups may come from
    their patients, depth or array as well as from what names them.

    Parameters
    ----------
    results
        From :func:`deepspot.models.cross_validate`; or slides after :func:`deepspot.tl.evaluate`: one, several, or a
        mapping from names to slides.
    groupby
        Column of `obs` with one text for each slide, such as the institution, the platform or the preservation; or a
        mapping (or a Series) from slides to groups.
    patient_key
        Of evaluated slides: column of `obs`, or a mapping from slides to patients. By default every slide counts as a
        patient. A cross-validation knows its patients.
    prediction_key
        Of evaluated slides: table with the prediction; needed only if there are several.
    n_bootstrap
        Number of bootstrap samples of the patients.
    seed
        Seed of the bootstrap; by default that of the cross-validation, else from the settings.

    Returns
    -------
    One row for each measure, and each model and group:

    `model`
        Only of a cross-validation.
    `train`, `test`
        Only with `groupby`: groups of the training slides, sorted and joined by ``" + "``, only of a cross-validation;
        and the group of the held-out slides.
    `measure`
        Name as in :func:`deepspot.tl.evaluate`. Those of genes are means over genes. In a cross-validation,
        correlations of a constant prediction count as 0.
    `value`, `low`, `high`
        Mean over slides, then over patients, and its 95 % interval from the bootstrap of patients; NaN for
        fewer than three.
        The interval does not contain the variation between groups, nor between trainings.
    `patients`
        Number of patients in which the measure is known.

    Raises
    ------
    KeyError
        If slides were not evaluated, or a column has not one text for each slide.
    ValueError
        If `groupby` or `patient_key` miss a slide.

    References
    ----------
    DeepSpot, section 4.3.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=4, n_rows=4, n_cols=5)
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20)
    >>> institution = {"P1_S1": "Bern", "P2_S1": "Bern", "P3_S1": "Basel", "P4_S1": "Basel"}
    >>> table = ds.cohort.evaluation(cv, groupby=institution)
    >>> table[table["measure"] == "r"].pivot(index="model", columns="test", values="value").columns.tolist()
    ['Basel', 'Bern']
    """
    check_count(n_bootstrap, "n_bootstrap")
    if isinstance(results, CrossValidation):
        found, groups = _of_folds(results, groupby)
    else:
        found, groups = _of_slides(results, groupby, patient_key, prediction_key)
    if seed is None and isinstance(results, CrossValidation):
        seed = results.seed
    return tidy_measures(found, groups, NAMES, n_bootstrap, check_seed(seed))


def _of_folds(
    cv: CrossValidation, groupby: str | Mapping[str, str] | pd.Series | None
) -> tuple[pd.DataFrame, list[str]]:
    """Return the measures of each held-out slide of a cross-validation, and the columns that group them."""
    found = by_slide(cv.scores, cv.patterns).reset_index()
    if groupby is None:
        return found, ["model"]
    group = text_of_slides(groupby, list(cv.slides), cv.columns)
    learned = {fold: " + ".join(sorted({group[name] for name in names})) for fold, (names, _) in cv.splits.items()}
    train, test = found["fold"].astype(str).map(learned), found["slide"].astype(str).map(group)
    return found.assign(train=train, test=test), ["model", "train", "test"]


def _of_slides(
    slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    groupby: str | Mapping[str, str] | pd.Series | None,
    patient_key: str | Mapping[str, str] | pd.Series | None,
    prediction_key: str | None,
) -> tuple[pd.DataFrame, list[str]]:
    """Return the measures of each evaluated slide, and the columns that group them."""
    named = as_mapping(slides)
    rows, measured = {}, {}
    for name, sdata in named.items():
        evaluated = evaluated_tables(sdata)
        if not evaluated:
            raise MissingKeyError(f"Slide {name!r} was not evaluated. Call `ds.tl.evaluate(sdata)` on it first.")
        key = one_key(prediction_key, evaluated, f"evaluated predictions of slide {name!r}", "prediction_key")
        rows[name] = sdata.tables[key].uns[UNS][AGREEMENT]
        measured[name] = sdata.tables[sdata.tables[key].uns[UNS]["evaluated_on"]]
    patients = dict(zip(named, named, strict=True)) if patient_key is None else patients_of(measured, patient_key)
    found = pd.DataFrame.from_dict(rows, orient="index").assign(patient=pd.Series(patients))
    if groupby is None:
        return found, []
    group = text_of_slides(groupby, list(named), slide_columns(measured))
    return found.assign(test=pd.Series(group)), ["test"]
