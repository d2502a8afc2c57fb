"""Circles for sub-spots and grids: checked against what is there, then added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot import _coords, _keys, _store, _tables

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from deepspot.pp._features import Request

    from ._layout import Layout

SAME_PX = 0.01


def plan_circles(
    sdata: SpatialData, key: str, request: Request, layout: Layout, *, table_key: str, overwrite: bool
) -> GeoDataFrame | None:
    """Make the circles of a layout in the coordinates of its spots, or None where they are there. Changes nothing.

    Raises
    ------
    ValueError
        If there are other shapes of this name, unless they may be overwritten: they were made by this package, and no
        table but the one named `table_key` belongs to them.
    """
    if key.lower() == table_key.lower():
        raise ValueError(f"{key!r} will be the name of the shapes, so the table needs another `key_added`.")
    tile, system = request.geometry, request.coordinate_system
    circles = _coords.circles(
        sdata, request.image_key, request.shapes_key, layout.placement, tile.tile_um / tile.grid, system
    )
    circles[_keys.PARENT] = np.asarray(sdata.shapes[request.shapes_key].index)[layout.parents]
    circles["row"], circles["col"] = layout.row, layout.col
    if key not in sdata.shapes:
        _store.check_key(sdata, key, kind="shapes")
        return circles
    if _same(sdata, key, request, circles, layout.placement.centers):
        return None
    if not overwrite or _keys.PARENT not in sdata.shapes[key]:
        raise ValueError(
            f"sdata.shapes[{key!r}] exists, and is not what these spots, this tile and this grid give. Pass "
            "`overwrite=True` if it was made by an earlier call, or else rename it."
        )
    others = [name for name in _tables.annotating(sdata, key) if name != table_key]
    if others:
        raise ValueError(
            f"sdata.shapes[{key!r}] would be replaced by other circles, but tables {others} belong to the present "
            "ones. Delete these tables first (`del sdata.tables[...]`)."
        )
    return circles


def add_circles(sdata: SpatialData, key: str, circles: GeoDataFrame | None, *, what: str) -> None:
    """Add circles that were planned, unless they are there already."""
    if circles is not None:
        _store.add_shapes(sdata, key, circles, what=what, overwrite=True)


def _same(sdata: SpatialData, key: str, request: Request, circles: GeoDataFrame, centers: np.ndarray) -> bool:
    old = sdata.shapes[key]
    if not np.array_equal(old.index, circles.index) or not {_keys.PARENT, _keys.DIAMETER} <= set(old.columns):
        return False
    if not np.array_equal(old[_keys.PARENT], circles[_keys.PARENT]):
        return False
    there = _coords.centers(sdata, request.image_key, key, request.coordinate_system)
    return bool(np.allclose(old[_keys.DIAMETER], circles[_keys.DIAMETER]) and np.abs(there - centers).max() <= SAME_PX)
