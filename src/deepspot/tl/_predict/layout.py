"""Positions, neighbors and shapes of sub-spots and grid points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.keys import DIAMETER, PARENT
from deepspot._sdata.shapes import check_not_annotated
from deepspot._sdata.write import check_new_key
from deepspot._spatial.neighbors import padded
from deepspot._spatial.transforms import Placement, centers_px, circles_at, pitch_px
from deepspot.errors import InputError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from deepspot._sdata.view import SlideView
    from deepspot._spatial.geometry import TileGeometry

# Grid points per distance between spots. In the paper, the grid is 30 px and the distance between spots 130 px.
FINER = 4
# Longest side of a triangle of neighboring spots, in distances between spots: the diagonal of a square is 1.41, and the
# distance across a missing spot is 2.
BETWEEN = 1.7
# Shift of points on the edge of two triangles, to test both.
EDGE_PX = 0.01
# Existing circles are the same if they are at most this far away.
SAME_PX = 0.01


@dataclass(frozen=True, eq=False)
class Layout:
    """Sub-spots or grid points of spots.

    `parents` (m,) are the numbers of the spots that they belong to, or are nearest to; `row` and `col` (m,) count from
    the top left of the spot or of the grid; `step` is the distance between columns in px.
    """

    placement: Placement
    parents: np.ndarray
    row: np.ndarray
    col: np.ndarray
    step: float


def subspot_layout(spots: Placement, tile: TileGeometry) -> Layout:
    """Return the sub-spots of all spots, spot by spot, and within a spot row by row from the top left."""
    n, grid = len(spots.centers), tile.grid
    row, col = np.divmod(np.tile(np.arange(grid**2), n), grid)
    parents = np.repeat(np.arange(n), grid**2)
    step = tile.tile_um / grid / spots.mpp
    centers = spots.centers[parents] + (np.column_stack([col, row]) - (grid - 1) / 2) * step
    names = [f"{name}_{r}_{c}" for name, r, c in zip(spots.index[parents], row, col, strict=True)]
    return Layout(Placement(centers, spots.mpp, pd.Index(names)), parents, row, col, step)


def grid_layout(spots: Placement, size: tuple[int, int], tile_um: float, grid_um: float | None = None) -> Layout:
    """Return the points of a square grid that are in or between spots; the central spot is on the grid.

    `size` is height and width of the image in px, `tile_um` the diameter of a spot, and `grid_um` the distance between
    points, by default a quarter of the distance between spots.
    """
    from scipy.spatial import cKDTree

    if len(spots.centers) < 2:
        raise InputError("A grid needs at least two spots, got one. Pass `resolution='subspot'`.")
    pitch = pitch_px(spots.centers)
    step = pitch / FINER if grid_um is None else grid_um / spots.mpp
    if step > pitch / 2:
        raise InputError(
            f"`grid_um` = {grid_um:g} is more than half the distance between spots ({pitch * spots.mpp:.4g} µm), too "
            "coarse for the neighbors of the model. Pass a smaller distance, or `resolution='spot'`."
        )
    tree, radius = cKDTree(spots.centers), tile_um / spots.mpp / 2
    middle = spots.centers[tree.query(spots.centers.mean(axis=0))[1]]
    low = np.floor((spots.centers.min(axis=0) - radius - middle) / step).astype(int)
    high = np.ceil((spots.centers.max(axis=0) + radius - middle) / step).astype(int)
    row, col = (axis.ravel() for axis in np.mgrid[low[1] : high[1] + 1, low[0] : high[0] + 1])
    centers = middle + np.column_stack([col, row]) * step
    distance, parents = tree.query(centers)
    covered = (distance <= radius) | _between(centers, spots.centers, BETWEEN * pitch)
    height, width = size
    kept = np.flatnonzero(covered & np.all((centers >= 0) & (centers <= (width, height)), axis=1))
    row, col = row[kept] - row[kept].min(), col[kept] - col[kept].min()
    names = [f"{r}_{c}" for r, c in zip(row, col, strict=True)]
    return Layout(Placement(centers[kept], spots.mpp, pd.Index(names)), parents[kept], row, col, step)


def grid_neighbors(layout: Layout, spots: Placement, neighbors: csr_matrix) -> csr_matrix:
    """Return the neighbors (m, m) of grid points, at the distances of the neighbors of spots.

    The grid points within the radius would be too many and too near. Instead, the offsets from the nearest spot to its
    `neighbors` (n, n) are applied to the point, and its neighbors are the grid points nearest to these positions.
    """
    from scipy.spatial import cKDTree

    centers, n = layout.placement.centers, len(layout.parents)
    near = padded(neighbors)[layout.parents]
    point, column = np.nonzero(near >= 0)
    parent = layout.parents[point]
    wanted = centers[point] + spots.centers[near[point, column]] - spots.centers[parent]
    # A position that is farther away than half the diagonal of a cell is outside of the grid.
    distance, nearest = cKDTree(centers).query(wanted, distance_upper_bound=0.71 * layout.step)
    inside = np.isfinite(distance) & (nearest != point)
    return csr_matrix((np.ones(int(inside.sum()), dtype=bool), (point[inside], nearest[inside])), shape=(n, n))


def plan_circles(
    view: SlideView, key: str, tile: TileGeometry, layout: Layout, *, table_key: str, overwrite: bool
) -> GeoDataFrame | None:
    """Return the circles of a layout in the coordinates of its spots, or None if `key` has them already.

    Other shapes of this name are an error, unless `overwrite` is set, this package made them, and no table other than
    `table_key` annotates them.
    """
    if key.lower() == table_key.lower():
        raise InputError(f"{key!r} will be the name of the shapes, so the table needs another `key_added`.")
    sdata = view.sdata
    circles = circles_at(
        sdata, view.image_key, view.shapes_key, layout.placement, tile.tile_um / tile.grid, view.coordinate_system
    )
    circles[PARENT] = np.asarray(view.index)[layout.parents]
    circles["row"], circles["col"] = layout.row, layout.col
    if key not in sdata.shapes:
        check_new_key(sdata, key, kind="shapes")
        return circles
    if _same(view, key, circles, layout.placement.centers):
        return None
    if not overwrite or PARENT not in sdata.shapes[key]:
        raise InputError(
            f"sdata.shapes[{key!r}] exists and does not match these spots, tile and grid. Pass `overwrite=True` if an "
            "earlier call made it, otherwise rename it."
        )
    check_not_annotated(sdata, key, own=[table_key])
    return circles


def _same(view: SlideView, key: str, circles: GeoDataFrame, centers: np.ndarray) -> bool:
    """Return whether the shapes of this name are the same as new circles."""
    old = view.sdata.shapes[key]
    if not np.array_equal(old.index, circles.index) or not {PARENT, DIAMETER} <= set(old.columns):
        return False
    if not np.array_equal(old[PARENT], circles[PARENT]):
        return False
    there = centers_px(view.sdata, view.image_key, key, view.coordinate_system)
    return bool(np.allclose(old[DIAMETER], circles[DIAMETER]) and np.abs(there - centers).max() <= SAME_PX)


def _between(points: np.ndarray, spots: np.ndarray, longest: float) -> np.ndarray:
    """Return which points are in a triangle of neighboring spots with sides of at most `longest`."""
    from scipy.spatial import Delaunay

    if np.linalg.matrix_rank(spots - spots.mean(axis=0), tol=1e-3) < 2:
        return np.zeros(len(points), dtype=bool)  # a single row of spots
    triangles = Delaunay(spots)
    corners = spots[triangles.simplices]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    inside = np.zeros(len(points), dtype=bool)
    for shift in EDGE_PX * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
        triangle = triangles.find_simplex(points + shift)
        inside |= (triangle >= 0) & (sides <= longest)[triangle]
    return inside
