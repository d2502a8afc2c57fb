"""Figures that only the report draws, and conversion of figures to PNG."""

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
    """Return the figure of axes as PNG, and close it."""
    import matplotlib.pyplot as plt

    first = ax[0] if isinstance(ax, Sequence) else ax
    figure: Any = first.get_figure(root=True)
    content = BytesIO()
    try:
        # A tight box keeps legends next to a map, and aligns maps with the text.
        figure.savefig(
            content, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None}
        )
    finally:
        plt.close(figure)
    return content.getvalue()


def try_drawing(
    slide: SlideContents, part: str, draw: Callable[..., Axes | Sequence[Axes]], *args: Any, **options: Any
) -> bytes | None:
    """Draw a figure; note it in `slide.missing` if the input does not allow it."""
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
    """Draw the image with the outlines of the spots, cells or bins."""
    from deepspot.pl._map.panel import draw_panel

    ax, places, backdrop = _map_axes(slide, SLIDE_INCHES, margin=0)
    outlines: dict[str, Any] = {"facecolors": "none", "edgecolors": "black"}
    shapes = draw_panel(ax, np.ones(slide.n_spots), places, backdrop, alpha=1, title="", **outlines)
    shapes.set_linewidth(min(0.7, 0.15 * places.points(ax)))  # lines of small cells would hide the tissue
    return ax


def draw_unusual(slide: SlideContents) -> Axes:
    """Draw the OOD score of every spot, with an outline if it is above 1."""
    from deepspot.pl._map.panel import draw_panel

    table_key = str(slide.prediction_key)
    score = _in_shape_order(slide, table_key, slide.sdata.tables[table_key].obs["ood_score"].to_numpy(dtype=float))
    ax, places, backdrop = _map_axes(slide)
    ends = (0, max(1.2, float(np.nanquantile(score, 0.99))))
    label = "unlike the training tissue (limit: 1)"
    style: dict[str, Any] = {"cmap": "Greys", "alpha": 0.5, "title": "", "label": label}
    draw_panel(ax, score, places, backdrop, clim=ends, ood=score > 1, **style)
    return ax


def draw_groups(slide: SlideContents, groupby: str) -> Axes:
    """Draw the groups of spots."""
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D

    from deepspot.pl._map.coloring import label_colors
    from deepspot.pl._map.panel import draw_panel
    from deepspot.pl._map.values import ood_spots

    table_key = str(slide.table_with_labels(groupby))
    labels = labels_of(slide.sdata, table_key, groupby)
    codes = _in_shape_order(slide, table_key, np.where(labels.isna(), np.nan, labels.cat.codes))
    colors = label_colors(slide.sdata.tables[table_key], groupby, [str(name) for name in labels.cat.categories])
    ax, places, backdrop = _map_axes(slide)
    cmap, ends = ListedColormap(list(colors.values())), (-0.5, len(colors) - 0.5)
    ood = ood_spots(slide.sdata, slide.shapes_key, table_key)
    draw_panel(ax, codes, places, backdrop, cmap=cmap, alpha=0.5, title="", clim=ends, ood=ood)
    style: dict[str, Any] = {"marker": "o", "markersize": 8, "linestyle": "none"}
    marks = [
        Line2D([], [], color=color, label=f"{name} ({slide.noun.count((codes == code).sum())})", **style)
        for code, (name, color) in enumerate(colors.items())
    ]
    ax.legend(handles=marks, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return ax


def draw_change(slide: SlideContents, change: np.ndarray) -> Axes:
    """Draw the mean of a change (rows of the corrected table, genes) over the genes of every spot."""
    from deepspot.pl._map.panel import GENE_SPAN, draw_panel, limits
    from deepspot.pl._map.values import ood_spots

    values = _in_shape_order(slide, str(slide.corrected_key), change.mean(axis=1))
    ax, places, backdrop = _map_axes(slide)
    style: dict[str, Any] = {"cmap": "viridis", "alpha": 0.5, "title": "", "label": "mean absolute change, log scale"}
    ood = ood_spots(slide.sdata, slide.shapes_key, str(slide.corrected_key))
    ends = (0.0, max(GENE_SPAN, limits(values)[1]))
    draw_panel(ax, values, places, backdrop, clim=ends, ood=ood, **style)
    return ax


def draw_r(r: Mapping[str, pd.Series]) -> Axes:
    """Draw the distribution over genes of one or two named series of r."""
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
    # Above the axes, so that it hides no bars.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return ax


def _in_shape_order(slide: SlideContents, table_key: str, values: np.ndarray) -> np.ndarray:
    """Return values of the rows of a table (n,) in the order of the shapes; NaN for shapes without a row."""
    rows, positions = match_rows(slide.sdata.tables[table_key], slide.sdata, slide.shapes_key)
    spread = np.full(slide.n_spots, np.nan)
    spread[positions] = values[rows]
    return spread


def _map_axes(slide: SlideContents, inches: float = MAP_INCHES, *, margin: float = 1.2) -> tuple[Axes, Any, Any]:
    """Return new axes for a map of this width with a margin for the legend, the placement and the backdrop."""
    import matplotlib.pyplot as plt

    from deepspot.pl._map.backdrop import backdrop_of
    from deepspot.pl._map.places import find_places

    places = find_places(slide.sdata, slide.image_key, slide.shapes_key)
    backdrop = backdrop_of(slide.sdata, slide.image_key, places)
    aspect = backdrop.pixels.shape[0] / backdrop.pixels.shape[1]
    inches = min(inches, inches / aspect)  # the longer side has this size
    _, ax = plt.subplots(figsize=(inches + margin, inches * aspect), layout="constrained")
    return ax, places, backdrop
