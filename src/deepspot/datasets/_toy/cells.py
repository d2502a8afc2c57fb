"""Cells of a toy slide with their expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .tissue import CLASSES, DIAMETER_UM, LOOKS, Array, Cells, Tissue, spot_signals

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

VERTICES = 24


def cell_signals(tissue: Tissue, cells: dict[str, Cells]) -> Array:
    """Return the signals of the genes (n, 5) of all cells: those of a spot of their class at their place."""
    composition = np.repeat(np.eye(len(CLASSES)), [len(cells[name].xy) for name in CLASSES], axis=0)
    return spot_signals(tissue, composition, np.concatenate([cells[name].xy for name in CLASSES]))


def cells_per_spot(classes: pd.Series) -> Array:
    """Return the expected number of cells (n,) in a spot of the class of each cell."""
    area = np.pi * (DIAMETER_UM / 2000) ** 2
    return np.asarray(classes.astype(str).map({name: area * look.per_mm2 for name, look in LOOKS.items()}), dtype=float)


def outlines(cells: dict[str, Cells], mpp: float) -> GeoDataFrame:
    """Return the outlines of the nuclei as polygons in pixels, with the class of the cell."""
    from geopandas import GeoDataFrame
    from shapely import polygons

    phi = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    parts = []
    for name in CLASSES:
        one = cells[name]
        r = 1 + one.lobes[:, [0]] * np.cos(2 * phi) + one.lobes[:, [1]] * np.cos(3 * phi)
        u, v = one.long[:, None] * r * np.cos(phi), one.short[:, None] * r * np.sin(phi)
        cos, sin = np.cos(one.angle)[:, None], np.sin(one.angle)[:, None]
        parts.append(one.xy[:, None] + np.stack([u * cos - v * sin, u * sin + v * cos], axis=-1))
    names = pd.Categorical(np.repeat(CLASSES, [len(part) for part in parts]), categories=CLASSES)
    return GeoDataFrame({"class": names}, geometry=polygons(np.concatenate(parts) / mpp))
