"""Axes for the panels of a figure: new ones in a grid, or those that were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.validate import check_same_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES = 5.0


def map_axes(
    ax: Axes | Sequence[Axes] | None,
    drawn: np.ndarray,
    *,
    aspect: float,
    figsize: tuple[float, float] | None = None,
    inches: float = PANEL_INCHES,
    together: bool = False,
) -> list[Axes]:
    """Make axes for maps.

    Parameters
    ----------
    ax
        Axes that were given, or None.
    drawn
        (rows, columns) bool: which places of the grid hold a panel. Columns without any are left out.
    aspect
        Height of a map by its width.
    figsize
        Width and height of a new figure in inches; by default as `inches` says.
    inches
        Width of a map.
    together
        Zoom into one is zoom into all.

    Returns
    -------
    One axes for each panel, row by row.
    """
    import matplotlib.pyplot as plt

    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        check_same_length(given, range(int(drawn.sum())), "`ax` and the panels")
        return given
    drawn = drawn[:, drawn.any(axis=0)]
    size = (inches * 1.18 * drawn.shape[1], (inches * aspect + 0.4) * drawn.shape[0])
    _, grid = plt.subplots(
        *drawn.shape, figsize=figsize or size, squeeze=False, layout="constrained", sharex=together, sharey=together
    )
    for panel in grid[~drawn]:
        panel.set_axis_off()
    return list(grid[drawn])


def shape_of(n: int, columns: int) -> np.ndarray:
    """Grid for n panels in rows of at most so many, as `drawn` of `map_axes`."""
    columns = min(n, columns)
    return (np.arange(-(-n // columns) * columns) < n).reshape(-1, columns)
