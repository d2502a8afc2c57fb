"""One map: spots coloured by a value, over the image, with a colour bar and a scale bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from ._backdrop import Backdrop

QUANTILES = (0.01, 0.99)


def limits(values: np.ndarray) -> tuple[float, float]:
    """Range of a colour scale that a few extreme spots do not stretch: the 1 and 99 % quantiles."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, QUANTILES) if len(finite) else (0.0, 1.0)
    if high <= low and len(finite):
        low, high = finite.min(), finite.max()
    return float(low), float(high) if high > low else float(low) + 1.0


def bar_length(width: float) -> float:
    """Length of a scale bar: the largest of 1, 2, 5, 10, 20, … that takes at most a quarter of the width."""
    steps = [mantissa * 10.0**power for power in range(-3, 7) for mantissa in (1, 2, 5)]
    return max((step for step in steps if step <= width / 4), default=width / 4)


def draw_panel(
    ax: Axes,
    values: np.ndarray,
    xy: np.ndarray,
    *,
    diameter: float,
    backdrop: Backdrop,
    cmap: str | Colormap,
    alpha: float,
    title: str,
    label: str,
) -> None:
    """Draw a map.

    Parameters
    ----------
    ax
        Where.
    values
        (n,) value of every spot; spots that are NaN are left out.
    xy
        (n, 2) centres in µm.
    diameter
        Of a spot, in µm.
    backdrop
        The image underneath.
    cmap, alpha
        Colours of the values, and opacity of the image.
    title, label
        Above the panel, and beside the colour bar.
    """
    from matplotlib.collections import EllipseCollection

    ax.imshow(backdrop.pixels, extent=backdrop.extent, alpha=alpha, interpolation="antialiased")
    there = np.isfinite(values)
    side = np.full(int(there.sum()), diameter)
    spots = EllipseCollection(
        side, side, np.zeros_like(side), units="xy", offsets=xy[there], offset_transform=ax.transData, cmap=cmap
    )
    spots.set_array(values[there])
    spots.set_clim(*limits(values))
    ax.add_collection(spots, autolim=False)
    left, right, bottom, top = backdrop.extent
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=title)
    ax.set_axis_off()
    _scale_bar(ax, bar_length(right - left))
    ax.figure.colorbar(spots, ax=ax, label=label, fraction=0.04, pad=0.02, extend=_beyond(values, *spots.get_clim()))


def _beyond(values: np.ndarray, low: float, high: float) -> str:
    """Which ends of the colour scale some spots lie beyond."""
    below, above = bool(np.nanmin(values) < low), bool(np.nanmax(values) > high)
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")


def _scale_bar(ax: Axes, length: float) -> None:
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = AnchoredSizeBar(ax.transData, length, text, "lower left", pad=0.3, borderpad=0.4, sep=3, frameon=True)
    bar.size_bar.get_children()[0].set(linewidth=2.5, color="black")
    bar.patch.set(alpha=0.8, edgecolor="none")
    ax.add_artist(bar)
