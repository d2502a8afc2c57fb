"""One map: spots coloured by a value, over the image, with a colour bar and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import Colormap

    from .backdrop import Backdrop, Spots

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
    spots: Spots,
    backdrop: Backdrop,
    *,
    cmap: str | Colormap,
    alpha: float,
    title: str,
    label: str | None = None,
    clim: tuple[float, float] | None = None,
) -> EllipseCollection:
    """Draw a map.

    Parameters
    ----------
    ax
        Where.
    values
        (n,) value of every spot; spots that are NaN are left out.
    spots
        Their places and width.
    backdrop
        The image underneath.
    cmap, alpha
        Colours of the values, and opacity of the image.
    title
        Above the panel.
    label
        Beside the colour bar; None draws none, for panels that share one.
    clim
        Ends of the colour scale; by default those of `limits`.

    Returns
    -------
    The spots that were drawn.
    """
    from matplotlib.collections import EllipseCollection

    ax.imshow(backdrop.pixels, extent=backdrop.extent, alpha=alpha, interpolation="antialiased")
    there = np.isfinite(values)
    side = np.full(int(there.sum()), spots.diameter)
    drawn = EllipseCollection(
        side, side, np.zeros_like(side), units="xy", offsets=spots.xy[there], offset_transform=ax.transData, cmap=cmap
    )
    drawn.set_array(values[there])
    drawn.set_clim(*(limits(values) if clim is None else clim))
    ax.add_collection(drawn, autolim=False)
    left, right, bottom, top = backdrop.extent
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=title)
    ax.set_axis_off()
    draw_scale_bar(ax, bar_length(right - left))
    if label is not None:
        draw_colour_bar(drawn, ax, values, label)
    return drawn


def draw_colour_bar(drawn: ScalarMappable, ax: Axes | Sequence[Axes], values: np.ndarray, label: str) -> None:
    """Draw the colour bar of one panel, or of several that share a scale; arrows say that values lie beyond it."""
    first = ax[0] if isinstance(ax, Sequence) else ax
    low, high = drawn.get_clim()
    first.figure.colorbar(drawn, ax=ax, label=label, fraction=0.04, pad=0.02, extend=_beyond(values, low, high))


def _beyond(values: np.ndarray, low: float | None, high: float | None) -> str:
    """Which ends of the colour scale some spots lie beyond."""
    below, above = bool(np.nanmin(values) < low), bool(np.nanmax(values) > high)
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")


def draw_scale_bar(ax: Axes, length: float) -> None:
    """Draw a bar of a length in µm into the lower left corner of axes that are in µm."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = AnchoredSizeBar(ax.transData, length, text, "lower left", pad=0.3, borderpad=0.4, sep=3, frameon=True)
    bar.size_bar.get_children()[0].set(linewidth=2.5, color="black")
    bar.patch.set(alpha=0.8, edgecolor="none")
    ax.add_artist(bar)
