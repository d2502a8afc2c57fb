"""Maps: places colored by a value over the image, with a color bar and a scale bar, in a grid of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot.pl._style import MISSING, several_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import EllipseCollection, PolyCollection

    from .backdrop import Backdrop
    from .places import Places

QUANTILES = (0.01, 0.99)
# Minimum span of the color scale of a gene in log units: a smaller difference does not fill the palette.
GENE_SPAN = 1.0
# A gene that varies less, in log units, has no pattern to draw: its values are equal in print.
FLAT = 0.01


def map_axes(
    ax: Axes | Sequence[Axes] | None,
    used: np.ndarray,
    backdrop: Backdrop,
    *,
    inches: float = 5.0,
    figsize: tuple[float, float] | None = None,
    together: bool = False,
) -> list[Axes]:
    """Return the given axes, or new ones in a grid with columns of this width, row by row.

    `used` (rows, columns) is True for panels with a map; empty columns are left out. `together` links the limits.
    """
    import matplotlib.pyplot as plt

    if ax is not None:
        return several_axes(ax, int(used.sum()), "panels")
    used = used[:, used.any(axis=0)]
    height, width = backdrop.pixels.shape[:2]
    size = (inches * 1.18 * used.shape[1], (inches * height / width + 0.4) * used.shape[0])
    _, grid = plt.subplots(
        *used.shape, figsize=figsize or size, squeeze=False, layout="constrained", sharex=together, sharey=together
    )
    for panel in grid[~used]:
        panel.set_axis_off()
    return list(grid[used])


def grid_of(n: int, columns: int) -> np.ndarray:
    """Return the grid of n panels in at most this number of columns, for `used` of `map_axes`."""
    columns = min(n, columns)
    return (np.arange(-(-n // columns) * columns) < n).reshape(-1, columns)


def limits(values: np.ndarray, least: float = 0.0) -> tuple[float, float]:
    """Return the 1 and 99 % quantiles as limits of a color scale.

    A span below `least` is widened to it around its middle; values that are not negative get no negative limit.
    """
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, QUANTILES) if len(finite) else (0.0, 1.0)
    if high <= low and len(finite):
        low, high = finite.min(), finite.max()
    if high - low < least:
        low = max((low + high - least) / 2, min(low, 0.0))
        high = low + least
    return float(low), float(high) if high > low else float(low) + 1.0


def is_flat(values: np.ndarray) -> bool:
    """Return whether a gene has no pattern: its values are equal in print, or there are none."""
    finite = values[np.isfinite(values)]
    return not len(finite) or bool(np.ptp(finite) < FLAT)


def span_text(values: np.ndarray) -> str:
    """Return the span of the values of a gene, from the 1 to the 99 % quantile, for a title."""
    low, high = limits(values)
    return f"span {high - low:.2f}"


def bar_length(width: float) -> float:
    """Return the length of a scale bar: the largest of 1, 2, 5, 10, 20, … that is at most a quarter of the width."""
    steps = [mantissa * 10.0**power for power in range(-3, 7) for mantissa in (1, 2, 5)]
    return max((step for step in steps if step <= width / 4), default=width / 4)


def draw_panel(
    ax: Axes,
    values: np.ndarray,
    places: Places,
    backdrop: Backdrop,
    *,
    alpha: float,
    title: str,
    detail: str = "",
    label: str | None = None,
    clim: tuple[float, float] | None = None,
    ood: np.ndarray | None = None,
    **style: Any,
) -> EllipseCollection | PolyCollection:
    """Draw a map of values (n,) of places without NaN; `alpha` is the opacity of the image.

    Without `label` there is no color bar. `clim` are the limits of the color scale, by default those of `limits`.
    Places with `ood` (n,) are outlined and counted in the title, below `detail`. `style` is that of
    the shapes, such as `cmap`.
    """
    ax.imshow(backdrop.pixels, extent=backdrop.extent, alpha=alpha, interpolation="antialiased")
    left, right, bottom, top = backdrop.extent
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    shapes = places.draw(ax, values, ood, clim=limits(values) if clim is None else clim, **style)
    finite = np.isfinite(values)
    if ood is not None and ood[finite].any():
        count = f"{ood[finite].sum():,} of {places.noun.count(finite.sum())} out of distribution (orange outline)"
        detail = f"{detail}\n{count}" if detail else count
    ax.set_title("\n".join(filter(None, (title, detail))), fontsize="medium")
    ax.set_axis_off()
    draw_scale_bar(ax, bar_length(right - left))
    if label is not None:
        draw_color_bar(shapes, ax, values, label)
    return shapes


def draw_gene(
    ax: Axes, values: np.ndarray, places: Places, backdrop: Backdrop, *, title: str, label: str, **style: Any
) -> EllipseCollection | PolyCollection:
    """Draw a map of a gene with its span in the title; all places of a gene without a pattern are gray."""
    if is_flat(values):
        detail = f"constant ({np.nanmean(values):.2f} in every {places.noun.one})"
        style["facecolors"] = MISSING
        return draw_panel(ax, values, places, backdrop, title=title, detail=detail, **style)
    return draw_panel(ax, values, places, backdrop, title=title, label=label, detail=span_text(values), **style)


def draw_color_bar(
    mappable: ScalarMappable, ax: Axes | Sequence[Axes], values: np.ndarray, label: str, *, cax: Axes | None = None
) -> None:
    """Draw the color bar of one panel or of several that share a scale; arrows mark values beyond it.

    It stands at the right of the panels, or lies in `cax`.
    """
    first = ax[0] if isinstance(ax, Sequence) else ax
    low, high = mappable.get_clim()
    beyond = bool(np.nanmin(values) < low), bool(np.nanmax(values) > high)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    if cax is not None:
        first.figure.colorbar(mappable, cax=cax, label=label, orientation="horizontal", extend=extend)
    else:
        first.figure.colorbar(mappable, ax=ax, label=label, fraction=0.04, pad=0.02, extend=extend)


def draw_scale_bar(ax: Axes, length: float) -> None:
    """Draw a scale bar of a length in µm in the lower left corner of axes in µm."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = AnchoredSizeBar(ax.transData, length, text, "lower left", pad=0.3, borderpad=0.4, sep=3, frameon=True)
    bar.size_bar.get_children()[0].set(linewidth=2.5, color="black")
    bar.patch.set(alpha=0.8, edgecolor="none")
    ax.add_artist(bar)
