"""Measures of a cross-validation beside r: beyond the first axis, over the ceiling, and numbers of patterns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .statistics import UNDEFINED, draws, spread

MEASURES = ["r", "r_beyond_axis", "r_of_ceiling", "gene_agreement", "patterns_predicted", "patterns_measured"]
GROUPS = ["model", "fold", "patient", "slide"]
PREDICTION = UNDEFINED[1]


def measures(scores: pd.DataFrame, patterns: pd.DataFrame, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Return the mean of each measure over genes, slides and patients, and its interval, with models in rows.

    `scores` are those of a cross-validation, with r of a constant prediction set to 0; see
    :meth:`deepspot.models.CrossValidation.measures`.
    """
    beyond = scores["r_beyond_axis"].mask(scores["undefined"] == PREDICTION, 0)
    by_gene = scores.assign(r_beyond_axis=beyond)
    limited = by_gene[by_gene["r_ceiling"].notna() & by_gene["r"].notna()].groupby(GROUPS, observed=True)
    by_slide = by_gene.groupby(GROUPS, observed=True)[["r", "r_beyond_axis"]].mean()
    by_slide["r_of_ceiling"] = limited["r"].mean() / limited["r_ceiling"].mean()
    by_slide = by_slide.join(patterns.set_index(GROUPS))
    by_patient = by_slide.groupby(GROUPS[:3], observed=True).mean()
    by_fold = by_patient.groupby(GROUPS[:2], observed=True).mean()[MEASURES]
    rows: dict[str, dict[str, float]] = {}
    for model, known in by_fold.groupby("model", observed=True, sort=False):
        row = rows[str(model)] = {}
        for name, values in known.items():
            found = values.dropna().to_numpy()
            names, mean = (str(name), f"{name}_low", f"{name}_high"), (np.nan, np.nan, np.nan)
            if len(found):
                samples = draws(len(found), n_bootstrap, seed)
                mean = (float(found.mean()), *spread(found[samples].mean(axis=1))[1:])
            row |= dict(zip(names, mean, strict=True))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
