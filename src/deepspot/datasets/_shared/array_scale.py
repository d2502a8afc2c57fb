"""µm per pixel from the distance between spots, which the technology fixes, and where the authors' columns put them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepspot._core.keys import ARRAY
from deepspot._core.validate import key_in
from deepspot._spatial.transforms import pitch_from_array, pitch_px
from deepspot.io._visium import PITCH_UM, STEPS

AUTHORS = {
    "x_array": "array_row", "y_array": "array_col", "x_pixel": "pxl_row_in_fullres", "y_pixel": "pxl_col_in_fullres",
}  # fmt: skip
"""Columns of DeepSpot's authors, whose x runs down the image, and what they are called elsewhere."""


def is_authors(obs: pd.DataFrame) -> bool:
    """Whether a table has the columns of DeepSpot's authors."""
    return {"x_pixel", "y_pixel"} <= set(obs.columns)


def authors_centers(obs: pd.DataFrame, where: str) -> np.ndarray:
    """Centres (n, 2), x and y in pixels, of a table of DeepSpot's authors: their `x_pixel` is the row."""
    for column in ("x_pixel", "y_pixel"):
        key_in(column, obs.columns, f"obs of {where}")
    return finite(obs[["y_pixel", "x_pixel"]].to_numpy(dtype=float), where)


def renamed(obs: pd.DataFrame) -> pd.DataFrame:
    """Columns of DeepSpot's authors under the names that they have elsewhere."""
    free = {old: new for old, new in AUTHORS.items() if new not in obs.columns}
    return obs.rename(columns=free)


def finite(centers: np.ndarray, where: str) -> np.ndarray:
    """Return centres (n, 2) if all are finite."""
    if centers.ndim != 2 or centers.shape[1] != 2 or not np.isfinite(centers).all():
        raise ValueError(f"{where} has spots without coordinates. Get the file again, or remove these spots.")
    return centers


def mpp_from_spots(centers: np.ndarray, obs: pd.DataFrame, pitch_um: float) -> float:
    """µm per pixel from centres (n, 2) that are `pitch_um` apart: by the array of Visium if `obs` has it."""
    if pitch_um == PITCH_UM and set(ARRAY) <= set(obs.columns):
        array = obs[list(ARRAY)].to_numpy(dtype=float)
        if np.isfinite(array).all():
            return pitch_um / pitch_from_array(centers, array * STEPS)
    return pitch_um / pitch_px(centers)
