"""Figures that only reports need, and how figures become bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._sdata.tables import labels_of, match_rows
from deepspot.pl._style import BLUE, ORANGE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .contents import SlideContents

DPI = 100
MAP_INCHES, SLIDE_INCHES = 5.2, 8.0


def to_png(ax: Axes | Sequence[Axes]) -> bytes:
    """Turn the figure of some axes into a PNG, and close it."""
    import matplotlib.pyplot as plt

    first = ax[0] if isinstance(ax, Sequence) else ax
    figure: Any = first.get_figure(root=True)
    content = BytesIO()
    try:
        # Tight: legends next to a map are never cut, and maps begin where the text does.
        figure.savefig(
            content, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None}
        )
    finally:
        plt.close(figure)
    return content.getvalue()


def try_drawing(
    slide: SlideContents, part: str, draw: Callable[..., Axes | Sequence[Axes]], *args: Any, **options: Any
) -> bytes | None:
    """Draw a figure; if that fails for a reason that a user can mend, the report goes on without it and says so."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        return to_png(draw(*args, **options))
    except (KeyError, ValueError) as error:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        slide.missing[part] = str(error.args[0] if error.args else error)
        return None


def draw_slide(slide: SlideContents) -> Axes:
    """Draw the image with the outlines of the spots."""
    from deepspot.pl._map.panel import draw_panel

    ax, spots, backdrop = _map_axes(slide, SLIDE_INCHES, margin=0)
    drawn = draw_panel(ax, np.ones(slide.n_spots), spots, backdrop, cmap="Greys", alpha=1, title="")
    drawn.set_array(None)
    drawn.set(facecolors="none", edgecolors="black", linewidths=0.7)
    return ax


def draw_unusual(slide: SlideContents) -> Axes:
    """Draw how unlike the training every spot is; those above 1 get a rim."""
    from deepspot.pl._map.panel import draw_panel

    table_key = str(slide.prediction_key)
    score = _in_shape_order(slide, table_key, slide.sdata.tables[table_key].obs["ood_score"].to_numpy(dtype=float))
    ax, spots, backdrop = _map_axes(slide)
    ends = (0, max(1.2, float(np.nanquantile(score, 0.99))))
    label = "unlike the training tissue (limit: 1)"
    drawn = draw_panel(ax, score, spots, backdrop, cmap="Greys", alpha=0.5, title="", label=label, clim=ends)
    drawn.set(edgecolors=np.where(score[np.isfinite(score)] > 1, "#D55E00", "none"), linewidths=2)
    return ax


def draw_groups(slide: SlideContents, groupby: str) -> Axes:
    """Draw the groups of spots."""
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D

    from deepspot.pl._map.coloring import label_colors
    from deepspot.pl._map.panel import draw_panel

    table_key = str(slide.table_with_labels(groupby))
    labels = labels_of(slide.sdata, table_key, groupby)
    codes = _in_shape_order(slide, table_key, np.where(labels.isna(), np.nan, labels.cat.codes))
    colors = label_colors(slide.sdata.tables[table_key], groupby, [str(name) for name in labels.cat.categories])
    ax, spots, backdrop = _map_axes(slide)
    cmap, ends = ListedColormap(list(colors.values())), (-0.5, len(colors) - 0.5)
    draw_panel(ax, codes, spots, backdrop, cmap=cmap, alpha=0.5, title="", clim=ends)
    style: dict[str, Any] = {"marker": "o", "markersize": 8, "linestyle": "none"}
    marks = [
        Line2D([], [], color=color, label=f"{name} ({(codes == code).sum():,} spots)", **style)
        for code, (name, color) in enumerate(colors.items())
    ]
    ax.legend(handles=marks, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return ax


def draw_change(slide: SlideContents, change: np.ndarray) -> Axes:
    """Draw how much a correction changed the genes (rows of the corrected table, genes) of every spot."""
    from deepspot.pl._map.panel import draw_panel

    values = _in_shape_order(slide, str(slide.corrected_key), change.mean(axis=1))
    ax, spots, backdrop = _map_axes(slide)
    label = "mean absolute change, log scale"
    draw_panel(ax, values, spots, backdrop, cmap="viridis", alpha=0.5, title="", label=label)
    return ax


def draw_r(r: Mapping[str, pd.Series]) -> Axes:
    """Draw the distribution over genes of one or two kinds of r, by name."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    every = np.concatenate(list(r.values()))
    edges = [float(edge) for edge in np.linspace(min(0.0, every.min()), max(0.1, every.max()), 26)]
    for (name, values), color in zip(r.items(), (BLUE, ORANGE), strict=False):
        label = f"{name}, median {np.median(values):.2f}"
        ax.hist(values, bins=edges, histtype="step", linewidth=1.8, color=color, label=label)
        ax.axvline(float(np.median(values)), color=color, linewidth=1, linestyle="--")
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="Pearson r over spots", ylabel="genes")
    ax.spines[["top", "right"]].set_visible(False)
    # Above the bars: inside the axes, the legend would hide some.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return ax


def _in_shape_order(slide: SlideContents, table_key: str, values: np.ndarray) -> np.ndarray:
    """Values of the rows of a table (n,) in the order of the shapes; NaN where there is none."""
    rows, positions = match_rows(slide.sdata.tables[table_key], slide.sdata, slide.shapes_key)
    spread = np.full(slide.n_spots, np.nan)
    spread[positions] = values[rows]
    return spread


def _map_axes(slide: SlideContents, inches: float = MAP_INCHES, *, margin: float = 1.2) -> tuple[Axes, Any, Any]:
    """Make axes for a map of this width, with a margin on the right for what explains the colors."""
    import matplotlib.pyplot as plt

    from deepspot.pl._map.backdrop import backdrop_of, place_spots

    spots = place_spots(slide.sdata, slide.image_key, slide.shapes_key)
    backdrop = backdrop_of(slide.sdata, slide.image_key, spots)
    aspect = backdrop.pixels.shape[0] / backdrop.pixels.shape[1]
    inches = min(inches, inches / aspect)  # a tall slide is made as high as a wide one is wide
    _, ax = plt.subplots(figsize=(inches + margin, inches * aspect), layout="constrained")
    return ax, spots, backdrop
