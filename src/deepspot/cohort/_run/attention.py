"""Slides of a cohort that need attention: failed, unlike the training tissue, or unlike the other slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot.models._confidence.ood import MANY_OOD

from .run_table import DONE, FAILED

if TYPE_CHECKING:
    from anndata import AnnData

# Modified z-score of Iglewicz and Hoaglin (1993), their limit, and the least number of slides that it describes.
TO_SIGMA, UNUSUAL, LEAST_SLIDES = 0.6745, 3.5, 5
FEW_SPOTS = 20
# Share of spots out of focus, folded or inked from which a slide is listed, as for those out of distribution.
MANY_ARTIFACTS = 0.25


def profile_scores(profiles: AnnData | None, runs: pd.DataFrame) -> pd.Series:
    """Return the modified z-score (slides,) of the mean absolute difference of each profile to the median profile.

    NaN for slides without a profile, and for all slides if there are fewer than five.
    """
    if profiles is None or profiles.n_obs < LEAST_SLIDES:
        return pd.Series(np.nan, index=runs.index)
    X = np.asarray(profiles.X)
    median = np.median(X, axis=0)
    # Slide by slide: differences of all would take several times the memory of the profiles.
    distance = pd.Series([np.abs(row - median).mean(dtype=float) for row in X], index=profiles.obs_names)
    spread = (distance - distance.median()).abs().median()
    z = TO_SIGMA * (distance - distance.median()) / spread if spread > 0 else distance * 0
    return z.reindex(runs.index)


def needs_attention(runs: pd.DataFrame, scores: pd.Series | None = None) -> dict[str, list[str]]:
    """Return the reasons why slides of a run table need attention, by slide; `scores` are those of the profiles."""
    reasons: dict[str, list[str]] = {}
    for name, row in runs.iterrows():
        found = []
        if row["status"] == FAILED:
            found.append(f"failed: {row['error']}")
        elif row["status"] != DONE:
            found.append("not predicted yet")
        else:
            if row["ood_share"] > MANY_OOD:
                found.append(f"{row['ood_share']:.0%} of the spots are unlike the training tissue")
            if row.get("artifact_share", 0.0) > MANY_ARTIFACTS:
                found.append(f"{row['artifact_share']:.0%} of the spots are out of focus, folded or inked")
            if scores is not None and scores[name] > UNUSUAL:
                what = f"modified z-score {scores[name]:.1f}"
                found.append(f"its mean expression is unlike that of the other slides ({what})")
            if row["spots"] < FEW_SPOTS:
                found.append(f"only {row['spots']} spots")
        if found:
            reasons[str(name)] = found
    return reasons
