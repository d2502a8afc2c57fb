"""Which spot contains a position: the circle or polygon of a shapes element."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import DIAMETER
from deepspot._sdata.view import known_diameter
from deepspot._spatial.neighbors import nearest_within
from deepspot._spatial.transforms import um_per_own_unit
from deepspot.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from geopandas import GeoDataFrame
    from spatialdata import SpatialData


def finder(sdata: SpatialData, shapes_key: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that finds, for positions (n, 2) in the coordinates of shapes, the shape (n,) or -1.

    The size of circles is their `diameter_um` if they have this column, else their radius. A position in several shapes
    belongs to that with the nearest center.
    """
    shapes = sdata.shapes[shapes_key]
    if "radius" not in shapes:
        return _in_polygons(shapes)
    return in_circles(shapes, _radius(sdata, shapes_key))


def area_mm2(sdata: SpatialData, shapes_key: str) -> np.ndarray:
    """Return the areas (n,) of shapes, or of the circles with their `diameter_um`."""
    shapes = sdata.shapes[shapes_key]
    if "radius" in shapes:
        area = np.full(len(shapes), np.pi * _radius(sdata, shapes_key) ** 2)
    else:
        area = shapes.geometry.area.to_numpy()
    return area * (um_per_own_unit(sdata, shapes_key) / 1000) ** 2


def _radius(sdata: SpatialData, shapes_key: str) -> float:
    """Return the radius of circles of one size, in their own coordinates."""
    diameter = known_diameter(sdata, shapes_key)
    if diameter is not None:
        return diameter / 2 / um_per_own_unit(sdata, shapes_key)
    radii = sdata.shapes[shapes_key]["radius"].unique()
    if len(radii) != 1:
        raise InputError(
            f"The circles {shapes_key!r} have {len(radii):,} different radii. Give them one size, in a column "
            f"{DIAMETER!r}, or convert them to polygons: `shapes.geometry.buffer(shapes['radius'])`."
        )
    return float(radii[0])


def in_circles(shapes: GeoDataFrame, radius: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the same function for points with one radius."""
    centers = np.column_stack([shapes.geometry.x, shapes.geometry.y])
    return lambda xy: nearest_within(xy, centers, radius)


def _in_polygons(shapes: GeoDataFrame) -> Callable[[np.ndarray], np.ndarray]:
    import shapely

    centroids = shapes.geometry.centroid
    centers = np.column_stack([centroids.x, centroids.y])

    def find(xy: np.ndarray) -> np.ndarray:
        row, polygon = shapes.sindex.query(shapely.points(xy), predicate="intersects")
        # The last assignment to a row is kept: the nearest, and the first of equally near ones.
        order = np.lexsort((-polygon, -np.linalg.norm(centers[polygon] - xy[row], axis=1)))
        found = np.full(len(xy), -1)
        found[row[order]] = polygon[order]
        return found

    return find
