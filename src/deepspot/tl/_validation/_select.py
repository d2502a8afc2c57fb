"""The choice of a setting: the largest mean area on the inner folds."""

from __future__ import annotations

import numpy as np
import pandas as pd


def select(areas: pd.DataFrame, model: str, n_settings: int) -> tuple[int, float]:
    """Number of the chosen setting and its mean area; the first of equals, NaN where nothing had to be chosen.

    Parameters
    ----------
    areas
        Columns `model`, `fold`, `inner_fold`, `setting` and `area`. Inner folds count alike within an outer fold, and
        outer folds alike.
    model
        Its name.
    n_settings
        How many settings it has.
    """
    if n_settings == 1:
        return 0, float("nan")
    mine = areas[areas["model"] == model]
    by_fold = mine.groupby(["setting", "fold"], observed=True)["area"].mean()
    means = by_fold.groupby("setting", observed=True).mean().reindex(range(n_settings)).to_numpy()
    if not np.isfinite(means).any():
        return 0, float("nan")
    best = int(np.nanargmax(means))
    return best, float(means[best])
