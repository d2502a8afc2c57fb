from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import checked
from deepspot.errors import InputError
from deepspot.tl._alignment.moves import AS_IS, STEP, SYMMETRIES

from ._style import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from deepspot.tl._alignment.align import Alignment

COLUMNS = 4
PANEL_INCHES = 2.6
# A black edge is visible on all colors of the map.
MARK: dict[str, Any] = {"markeredgecolor": "black", "linestyle": "none"}
AS_IS_MARK = MARK | {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgewidth": 2}
BEST_MARK = MARK | {"marker": "X", "markersize": 11, "markerfacecolor": "white", "markeredgewidth": 1.2}


@checked
def alignment(alignment: Alignment, *, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """Plot the correlation of measured and predicted genes for each move of the spots.

    There is one map for each symmetry of the square; its axes are the shift in distances between spots. All maps share
    one color scale. A circle marks the spots as they are, a cross the best move, and the title is the verdict. On an
    aligned slide the maximum is under the circle.

    Parameters
    ----------
    alignment
        Result of :func:`deepspot.tl.check_alignment`.
    ax
        Eight axes; by default a new figure.

    Returns
    -------
    The eight axes.

    Raises
    ------
    ValueError
        If `ax` has other than eight axes.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=6, n_cols=7)
    >>> options = {"genes": 20, "network": {"members": 1}, "training": {"epochs": 5}}
    >>> model = ds.models.train(slides["P1_S1"], **options)
    >>> axes = ds.pl.alignment(ds.tl.check_alignment(slides["P2_S1"], model))
    >>> len(axes)
    8
    """
    axes = _new(alignment) if ax is None else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != len(SYMMETRIES):
        raise InputError(f"`ax` must be {len(SYMMETRIES)} axes, one for each symmetry, got {len(axes)}.")
    largest = float(np.nanmax(np.abs(alignment.table["r"])))
    best = alignment.table.iloc[alignment.best]
    for panel, symmetry in zip(axes, SYMMETRIES, strict=True):
        image = _map(panel, alignment.table[alignment.table["symmetry"] == symmetry], largest)
        panel.set_title(symmetry, fontsize="medium", fontweight="bold" if symmetry == best["symmetry"] else "normal")
        if symmetry == AS_IS:
            panel.plot(0, 0, **AS_IS_MARK)
        if symmetry == best["symmetry"]:
            panel.plot(best["dx_pitches"], -best["dy_pitches"], **BEST_MARK)
    axes[0].figure.colorbar(image, ax=axes, label="Pearson r of measured and predicted genes", shrink=0.8, pad=0.02)
    return axes


def _new(alignment: Alignment) -> list[Axes]:
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    rows = len(SYMMETRIES) // COLUMNS
    size = (PANEL_INCHES * COLUMNS + 1.2, PANEL_INCHES * rows + 1.6)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=size, sharex=True, sharey=True, layout="constrained")
    figure.suptitle(repr(alignment).replace(" (", "\n("), fontsize="large")
    for ax in axes[-1]:
        ax.set_xlabel("moved right (spots)")
    for ax in axes[:, 0]:
        ax.set_ylabel("moved up (spots)")
    marks = [
        Line2D([], [], **AS_IS_MARK, label="not moved"),
        Line2D([], [], **BEST_MARK, label="best move"),
        Line2D([], [], color=MISSING, marker="s", markersize=12, linestyle="none", label="too few spots overlap"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    return list(axes.ravel())


def _map(ax: Axes, moves: pd.DataFrame, largest: float) -> AxesImage:
    values = moves.pivot(index="dy_pitches", columns="dx_pitches", values="r")
    x, y = (axis.to_numpy(dtype=float) for axis in (values.columns, values.index))
    half = STEP / 2
    # dy points downwards, as in an image; the axis shows upward shifts as positive.
    extent = (x[0] - half, x[-1] + half, -y[-1] - half, -y[0] + half)
    r = np.ma.masked_invalid(values.to_numpy(dtype=float))
    image = ax.imshow(r, cmap="PuOr", vmin=-largest, vmax=largest, extent=extent)
    ax.set_facecolor(MISSING)
    return image
