"""Where sub-spots and finer grids lie, and who is whose neighbor there. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.keys import DIAMETER, PARENT
from deepspot._sdata.tables import tables_annotating
from deepspot._sdata.write import add_shapes, check_new_key
from deepspot._spatial.geometry import TileGeometry
from deepspot._spatial.neighbors import padded
from deepspot._spatial.transforms import Placement, centers_px, circles_at, pitch_px
from deepspot.errors import InputError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from deepspot._sdata.view import SlideView


# The paper's grid is about four times as dense as the spots: 30 px for a distance of 130.
FINER = 4
# In distances between spots: the longest side of a triangle of spots that has tissue between them. The diagonal of a
# square has 1.41; where a spot is missing there are 2.
BETWEEN = 1.7
EDGE_PX = 0.01
# Circles that are there already count as the same if they lie no farther off.
SAME_PX = 0.01


@dataclass(frozen=True, eq=False)
class Layout:
    """Places that were made of spots.

    Attributes
    ----------
    placement
        Where they lie in the image, and their names.
    parents
        (m,) position of the spot that each is of, or nearest to.
    row, col
        (m,) row and column: in the spot, or in the grid.
    step
        Distance from one to the next along a row, in pixels.
    """

    placement: Placement
    parents: np.ndarray
    row: np.ndarray
    col: np.ndarray
    step: float


def lay_subspots(spots: Placement, tile: TileGeometry) -> Layout:
    """Sub-spots of all spots, spot by spot, and in each row by row from the top left of the image."""
    n, grid = len(spots.centers), tile.grid
    row, col = np.divmod(np.tile(np.arange(grid**2), n), grid)
    parents = np.repeat(np.arange(n), grid**2)
    step = tile.tile_um / grid / spots.mpp
    centers = spots.centers[parents] + (np.column_stack([col, row]) - (grid - 1) / 2) * step
    names = [f"{name}_{r}_{c}" for name, r, c in zip(spots.index[parents], row, col, strict=True)]
    return Layout(Placement(centers, spots.mpp, pd.Index(names)), parents, row, col, step)


def lay_grid(spots: Placement, size: tuple[int, int], tile_um: float, grid_um: float | None = None) -> Layout:
    """A square grid through the spot in the middle, of points that lie in a spot or between spots.

    Parameters
    ----------
    spots
        Two spots or more.
    size
        Height and width of the image.
    tile_um
        Diameter of a spot in µm.
    grid_um
        Distance between points in µm; None takes a quarter of the distance between spots.

    Raises
    ------
    ValueError
        If there is a single spot, or the grid would not be at least twice as dense as the spots.
    """
    from scipy.spatial import cKDTree

    if len(spots.centers) < 2:
        raise InputError("A grid is laid over two spots or more, and there is one. Use `resolution='subspot'`.")
    pitch = pitch_px(spots.centers)
    step = pitch / FINER if grid_um is None else grid_um / spots.mpp
    if step > pitch / 2:
        raise InputError(
            f"`grid_um` = {grid_um:g} is more than half the distance between spots ({pitch * spots.mpp:.4g} µm), too "
            "coarse to find the neighbors that the model learned with. Pass a smaller one, or use `resolution='spot'`."
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
    """Neighbors of grid points, as far away as those of spots.

    All grid points within the radius would be a hundred, and the nearest of them much nearer than a neighbor was in
    training. So a point has its neighbors where its nearest spot has them, moved along with it, each at the grid point
    that is next to that place.

    Parameters
    ----------
    layout
        m points of a grid.
    spots
        The n spots that it was laid over.
    neighbors
        (n, n) neighbors of the spots by the rule of the model.

    Returns
    -------
    Boolean matrix (m, m), without a diagonal.
    """
    from scipy.spatial import cKDTree

    centers, n = layout.placement.centers, len(layout.parents)
    near = padded(neighbors)[layout.parents]
    point, column = np.nonzero(near >= 0)
    parent = layout.parents[point]
    wanted = centers[point] + spots.centers[near[point, column]] - spots.centers[parent]
    # Beyond half the diagonal of a cell, no grid point is next to the place.
    distance, found = cKDTree(centers).query(wanted, distance_upper_bound=0.71 * layout.step)
    there = np.isfinite(distance) & (found != point)
    return csr_matrix((np.ones(int(there.sum()), dtype=bool), (point[there], found[there])), shape=(n, n))


def _between(points: np.ndarray, spots: np.ndarray, longest: float) -> np.ndarray:
    """Which points lie in a triangle of neighboring spots, with sides of at most `longest`."""
    from scipy.spatial import Delaunay

    if np.linalg.matrix_rank(spots - spots.mean(axis=0), tol=1e-3) < 2:
        return np.zeros(len(points), dtype=bool)  # a single row of spots
    triangles = Delaunay(spots)
    corners = spots[triangles.simplices]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    inside = np.zeros(len(points), dtype=bool)
    for nudge in EDGE_PX * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)]):  # a point on an edge is in both triangles
        found = triangles.find_simplex(points + nudge)
        inside |= (found >= 0) & (sides <= longest)[found]
    return inside


def plan_circles(
    view: SlideView, key: str, tile: TileGeometry, layout: Layout, *, table_key: str, overwrite: bool
) -> GeoDataFrame | None:
    """Make the circles of a layout in the coordinates of its spots, or None where they are there. Changes nothing.

    Raises
    ------
    ValueError
        If there are other shapes of this name, unless they may be overwritten: they were made by this package, and no
        table but the one named `table_key` belongs to them.
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
            f"sdata.shapes[{key!r}] exists, and is not what these spots, this tile and this grid give. Pass "
            "`overwrite=True` if it was made by an earlier call, or else rename it."
        )
    others = [name for name in tables_annotating(sdata, key) if name != table_key]
    if others:
        raise InputError(
            f"sdata.shapes[{key!r}] would be replaced by other circles, but tables {others} belong to the present "
            "ones. Delete these tables first (`del sdata.tables[...]`)."
        )
    return circles


def add_circles(sdata: SpatialData, key: str, circles: GeoDataFrame | None, *, what: str) -> None:
    """Add circles that were planned, unless they are there already."""
    if circles is not None:
        add_shapes(sdata, key, circles, what=what, overwrite=True)


def _same(view: SlideView, key: str, circles: GeoDataFrame, centers: np.ndarray) -> bool:
    old = view.sdata.shapes[key]
    if not np.array_equal(old.index, circles.index) or not {PARENT, DIAMETER} <= set(old.columns):
        return False
    if not np.array_equal(old[PARENT], circles[PARENT]):
        return False
    there = centers_px(view.sdata, view.image_key, key, view.coordinate_system)
    return bool(np.allclose(old[DIAMETER], circles[DIAMETER]) and np.abs(there - centers).max() <= SAME_PX)
