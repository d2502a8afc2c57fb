"""Where spots are in their array: columns and rows, parts of a slide, neighbors. All from positions in µm."""

from __future__ import annotations

import numpy as np

from deepspot._spatial.neighbors import array_layout
from deepspot._spatial.transforms import pitch_px


def pitch_of(position: np.ndarray) -> float:
    """Return the distance between neighboring spots (n, 2); 1 for a single spot."""
    return pitch_px(position) if len(position) > 1 else 1.0


def columns_and_rows(position: np.ndarray) -> np.ndarray:
    """Return the column and row (n, 2) of every spot, from 0.

    On a hexagonal array the columns of one row are every second one, as in the files of Space Ranger.
    """
    pitch = pitch_of(position)
    step = np.array([pitch, pitch])
    if len(position) > 1 and array_layout(position) == "hexagonal":
        step = pitch * np.array([0.5, 0.75**0.5])
        if not _rows_are_lines(position, pitch):
            step = step[::-1]
    return np.rint((position - position.min(axis=0)) / step).astype(np.int64)


def _rows_are_lines(position: np.ndarray, pitch: float) -> bool:
    """Return whether the neighbors of a spot in a hexagonal array are at 0° instead of 90°."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(position).query_pairs(1.2 * pitch, output_type="ndarray")
    dx, dy = (position[pairs[:, 1]] - position[pairs[:, 0]]).T
    return bool(np.cos(6 * np.arctan2(dy, dx)).mean() > 0)


def split_slide(array: np.ndarray, max_spots: int, n_pos: int) -> list[np.ndarray]:
    """Divide a slide into parts of at most `max_spots` spots and fewer than `n_pos` columns and rows.

    `array` (n, 2) are columns and rows. A part is halved across its longer side until it is small enough. Returns the
    numbers of the spots of every part.
    """
    pending, parts = [np.arange(len(array))], []
    while pending:
        spots = pending.pop()
        extent = np.ptp(array[spots], axis=0)
        if len(spots) <= max_spots and extent.max() < n_pos:
            parts.append(spots)
            continue
        order = spots[np.argsort(array[spots, extent.argmax()], kind="stable")]
        pending += np.array_split(order, 2)
    return parts


def nearest_spots(position: np.ndarray, k: int, reach: float) -> np.ndarray:
    """Return pairs (2, e) of every spot and its k nearest ones within `reach` distances between spots.

    A spot without any is its own neighbor.
    """
    from scipy.spatial import cKDTree

    n = len(position)
    spots = np.arange(n)
    if n == 1:
        return np.zeros((2, 1), dtype=np.int64)
    distance, nearest = cKDTree(position).query(position, k=min(k + 1, n))
    other = (nearest != spots[:, None]) & (distance <= reach * pitch_of(position))
    other &= np.cumsum(other, axis=1) <= k
    spot, column = np.nonzero(other)
    alone = np.flatnonzero(~other.any(axis=1))
    return np.column_stack([np.stack([spot, nearest[spot, column]]), np.stack([alone, alone])])


def window(position: np.ndarray, side: int) -> np.ndarray:
    """Return the spots (n, side²) at the places of a square around every spot, -1 where there is none.

    Places are one distance between spots apart, in rows; the spot is in the middle. A spot takes a place up to half a
    distance away from it.
    """
    from scipy.spatial import cKDTree

    pitch, n, reach = pitch_of(position), len(position), side // 2
    row, column = np.divmod(np.arange(side**2), side)
    places = position[:, None] + pitch * np.column_stack([column - reach, row - reach])
    found = cKDTree(position).query(places, distance_upper_bound=0.5 * pitch)[1]
    found[:, side**2 // 2] = np.arange(n)
    return np.where(found < n, found, -1)
