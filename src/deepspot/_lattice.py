"""Places for spots: a square or hexagonal array over an image. Pure arithmetic, in the unit of its arguments."""

from __future__ import annotations

import numpy as np

LAYOUTS = ("hexagonal", "square")
# 1,000 µm at 0.1 µm per pixel are 10,000 px only up to rounding: a last row must not depend on it.
ROUNDING = 1e-6


def lay(width: float, height: float, distance: float, side: float, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Lay an array of spots over an image, in the middle of it.

    Parameters
    ----------
    width, height
        Size of the image.
    distance
        Between the centres of neighbouring spots.
    side
        Side of the tile of a spot. Every tile lies inside the image as a whole, so that none is filled up with white.
    layout
        ``"square"``, or ``"hexagonal"``: numbered as Visium, where the next spot of a row is two columns away, and odd
        rows are shifted by one.

    Returns
    -------
    Centres (n, 2; x and y; float64), row by row, and their rows and columns in the array (n, 2; int64); n is 0 if not
    even one tile fits.
    """
    hexagonal = layout == "hexagonal"
    step = (distance / 2, distance * np.sqrt(3) / 2) if hexagonal else (distance, distance)
    room = np.array([width - side, height - side])
    if room.min() < 0:
        return np.empty((0, 2)), np.empty((0, 2), dtype=np.int64)
    columns, rows = (int(steps) + 1 for steps in np.floor(room / step + ROUNDING))
    row, col = (axis.ravel() for axis in np.indices((rows, columns)))
    if hexagonal:
        there = (row + col) % 2 == 0
        row, col = row[there], col[there]
    array = np.column_stack([row, col])
    taken = array.max(axis=0)[::-1] * step
    return array[:, ::-1] * step + side / 2 + (room - taken) / 2, array
