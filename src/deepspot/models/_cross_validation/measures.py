"""Measures of a cross-validation beside r: by slide, and their means over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deepspot._stats.agreement import MEANS

from .statistics import UNDEFINED, draws, filled, spread

MEASURES = ["r", "r_beyond_axis", "r_of_ceiling", "gene_agreement", "patterns_predicted", "patterns_measured"]
# Of genes beside r; see `ds.tl.evaluate`.
BY_GENE = [*MEANS, "slope"]
GROUPS = ["model", "fold", "patient", "slide"]
PREDICTION = UNDEFINED[1]
# Undefined for a constant prediction, which counts as no correlation.
CORRELATIONS = ["r_beyond_axis", "spearman", "lee"]


def filled_r(scores: pd.DataFrame) -> np.ndarray:
    """Return r of scores for use in means: 0 where the prediction made it undefined, NaN where the measurement did."""
    codes = pd.Categorical(scores["undefined"], categories=list(UNDEFINED)).codes
    return filled(scores["r"].to_numpy(dtype=float), np.asarray(codes))


def by_slide(scores: pd.DataFrame, patterns: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each measure over genes, and those of whole slides, by model, fold, patient and slide.

    `scores` and `patterns` are those of a cross-validation.
    """
    silent = scores["undefined"] == PREDICTION
    zero = {name: scores[name].mask(silent, 0) for name in CORRELATIONS}
    by_gene = scores.assign(r=filled_r(scores), **zero)
    limited = by_gene[by_gene["r_ceiling"].notna() & by_gene["r"].notna()].groupby(GROUPS, observed=True)
    # The slope of a nearly constant gene is arbitrarily large. That of a slide weights genes by their variance.
    found = by_gene.groupby(GROUPS, observed=True)[["r", "r_beyond_axis", *MEANS]].mean()
    found["r_of_ceiling"] = limited["r"].mean() / limited["r_ceiling"].mean()
    return found.join(patterns.set_index(GROUPS))


def measures(scores: pd.DataFrame, patterns: pd.DataFrame, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Return the mean of each measure over genes, slides and patients, and its interval, with models in rows.

    Arguments are those of `by_slide`; see :meth:`deepspot.models.CrossValidation.measures`.
    """
    by_patient = by_slide(scores, patterns)[MEASURES].groupby(GROUPS[:3], observed=True).mean()
    rows: dict[str, dict[str, float]] = {}
    for model, known in by_patient.groupby("model", observed=True, sort=False):
        row = rows[str(model)] = {}
        for name, values in known.items():
            names = (str(name), f"{name}_low", f"{name}_high")
            row |= dict(zip(names, interval(values, n_bootstrap, seed), strict=True))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def interval(values: pd.Series, n_bootstrap: int, seed: int) -> tuple[float, float, float]:
    """Return the mean of the known values and its 95 % interval from the bootstrap; NaN without any."""
    found = values.dropna().to_numpy(dtype=float)
    if not len(found):
        return np.nan, np.nan, np.nan
    return float(found.mean()), *spread(found[draws(len(found), n_bootstrap, seed)].mean(axis=1))[1:]


def tidy_measures(
    found: pd.DataFrame, groups: Sequence[str], names: Sequence[str], n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """Return one row for each combination of `groups` and each measure: its mean over slides, then over patients.

    `found` has one row for each slide, with the columns `groups`, `patient` and measures. Columns of the result:
    `groups`, `measure`, `value`, its 95 % interval `low` and `high` over patients (NaN for fewer than three), and
    `patients`, the number of those in which the measure is known. Measures that are not known are left out.
    """
    names = [name for name in names if name in found]
    by_patient = found.groupby([*groups, "patient"], observed=True, sort=False)[names].mean()
    rows = []
    parts = by_patient.groupby(list(groups), observed=True, sort=False) if groups else [((), by_patient)]
    for key, part in parts:
        for name in names:
            n = int(part[name].notna().sum())
            value, *ends = interval(part[name], n_bootstrap, seed)
            low, high = ends if n > 2 else (np.nan, np.nan)
            if n:
                rows.append((*key, name, value, low, high, n))
    return pd.DataFrame(rows, columns=[*groups, "measure", "value", "low", "high", "patients"])
