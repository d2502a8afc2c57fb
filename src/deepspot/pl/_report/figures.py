"""Figures that only the report needs, and how figures become bytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .survey import Slide

DPI = 100
MAP_INCHES, SLIDE_INCHES = 5.2, 8.0


def shot(ax: Axes | Sequence[Axes]) -> bytes:
    """Take the figure of some axes as a PNG, and close it."""
    import matplotlib.pyplot as plt

    first = ax[0] if isinstance(ax, Sequence) else ax
    figure: Any = first.get_figure(root=True)
    content = BytesIO()
    try:
        # Tight: legends beside a map are never cut, and maps begin where the text does.
        figure.savefig(
            content, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None}
        )
    finally:
        plt.close(figure)
    return content.getvalue()


def draw_slide(slide: Slide) -> Axes:
    """Draw the image with the rims of the spots."""
    ax, spots, backdrop = _map(slide, SLIDE_INCHES, beside=0)
    ax.imshow(backdrop.pixels, extent=backdrop.extent, interpolation="antialiased")
    _rims(ax, spots.xy, spots.diameter, "black", 0.7)
    _finish(ax, backdrop.extent)
    return ax


def draw_strange(slide: Slide, score: np.ndarray) -> Axes:
    """Draw how unlike the training every spot (in the order of the shapes) is; those above 1 get a rim."""
    from deepspot.pl._map.panel import draw_panel

    ax, spots, backdrop = _map(slide)
    top = max(1.2, float(np.nanquantile(score, 0.99)))
    draw_panel(
        ax, score, spots, backdrop, cmap="Greys", alpha=0.5, title="", label="unlike the training tissue (limit: 1)",
        clim=(0, top),
    )  # fmt: skip
    _rims(ax, spots.xy[score > 1], spots.diameter, "#D55E00", 2.0)
    return ax


def draw_groups(slide: Slide, labels: pd.Series, colours: dict[str, str]) -> Axes:
    """Draw the groups of spots; `labels` in the order of the shapes."""
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D

    from deepspot.pl._map.panel import draw_panel

    ax, spots, backdrop = _map(slide)
    codes = labels.cat.codes.to_numpy(dtype=float)
    codes[codes < 0] = np.nan
    draw_panel(
        ax, codes, spots, backdrop, cmap=ListedColormap(list(colours.values())), alpha=0.5, title="",
        clim=(-0.5, len(colours) - 0.5),
    )  # fmt: skip
    counts = labels.value_counts()
    style: dict[str, Any] = {"marker": "o", "markersize": 8, "linestyle": "none"}
    marks = [
        Line2D([], [], color=colour, label=f"{name} ({counts[name]:,} spots)", **style)
        for name, colour in colours.items()
    ]
    ax.legend(handles=marks, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return ax


def draw_change(slide: Slide, change: np.ndarray) -> Axes:
    """Draw how much a correction moved every spot (in the order of the shapes)."""
    from deepspot.pl._map.panel import draw_panel

    ax, spots, backdrop = _map(slide)
    draw_panel(
        ax, change, spots, backdrop, cmap="viridis", alpha=0.5, title="", label="mean absolute change, log scale"
    )
    return ax


def draw_r(r: dict[str, np.ndarray]) -> Axes:
    """Draw the distribution of r over genes: expected, measured here, or both."""
    import matplotlib.pyplot as plt

    from deepspot.pl._style import BLUE, ORANGE

    _, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    every = np.concatenate(list(r.values()))
    edges = [float(edge) for edge in np.linspace(min(0.0, every.min()), max(0.1, every.max()), 26)]
    for (name, values), colour in zip(r.items(), (BLUE, ORANGE), strict=False):
        label = f"{name}, median {np.median(values):.2f}"
        ax.hist(values, bins=edges, histtype="step", linewidth=1.8, color=colour, label=label)
        ax.axvline(float(np.median(values)), color=colour, linewidth=1, linestyle="--")
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="Pearson r over spots", ylabel="genes")
    ax.spines[["top", "right"]].set_visible(False)
    # Above the bars: wherever the legend lay inside, it would hide some.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return ax


def _map(slide: Slide, inches: float = MAP_INCHES, *, beside: float = 1.2) -> tuple[Axes, Any, Any]:
    """Make axes for a map so wide, with room beside it for what explains the colours."""
    import matplotlib.pyplot as plt

    from deepspot.pl._map.backdrop import backdrop_of, place_spots

    spots = place_spots(slide.sdata, slide.image_key, slide.shapes_key)
    backdrop = backdrop_of(slide.sdata, slide.image_key, spots)
    aspect = backdrop.pixels.shape[0] / backdrop.pixels.shape[1]
    inches = min(inches, inches / aspect)  # a tall slide is made as high as a wide one is wide
    height = inches * aspect
    _, ax = plt.subplots(figsize=(inches + beside, height), layout="constrained")
    return ax, spots, backdrop


def _rims(ax: Axes, xy: np.ndarray, diameter: float, colour: str, width: float) -> None:
    from matplotlib.collections import EllipseCollection

    side = np.full(len(xy), diameter)
    rims = EllipseCollection(
        side, side, np.zeros_like(side), units="xy", offsets=xy, offset_transform=ax.transData, facecolors="none",
        edgecolors=colour, linewidths=width,
    )  # fmt: skip
    ax.add_collection(rims, autolim=False)


def _finish(ax: Axes, extent: tuple[float, float, float, float]) -> None:
    from deepspot.pl._map.panel import bar_length, draw_scale_bar

    left, right, bottom, top = extent
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()
    draw_scale_bar(ax, bar_length(right - left))
