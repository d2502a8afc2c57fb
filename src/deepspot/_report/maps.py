"""Maps of the report. All of a slide have the same size, so that places can be compared with the plain tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._sdata.tables import comparable_scale, match_rows
from deepspot.pl._style import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

    from .contents import SlideContents

MAP_INCHES, SLIDE_INCHES = 4.0, 6.0
# Height of a color bar with its label below a map.
BAR_INCHES = 0.55
LEGEND_COLUMNS, LEGEND_INCHES = 3, 0.24
# Part of the image that is visible below the colors.
FAINT = 0.6


def draw_tissue(slide: SlideContents, *, outlines: bool = False, large: bool = False) -> Axes:
    """Draw the image, with the outlines of the spots, cells or bins if asked for."""
    from deepspot.pl._map.panel import draw_panel

    places, backdrop = slide.map
    ax, _ = _map_axes(slide, SLIDE_INCHES if large else MAP_INCHES)
    values = np.full(slide.n_spots, 1.0 if outlines else np.nan)
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": "black"}
    shapes = draw_panel(ax, values, places, backdrop, alpha=1, title="", **style)
    shapes.set_linewidth(min(0.7, 0.15 * places.points(ax)))  # lines of small cells would hide the tissue
    return ax


def draw_unusual(slide: SlideContents) -> Axes:
    """Draw the OOD score of every spot, with an outline if it is above 1."""
    table_key = str(slide.prediction_key)
    score = in_shape_order(slide, table_key, slide.sdata.tables[table_key].obs["ood_score"].to_numpy(dtype=float))
    ends = (0, max(1.2, float(np.nanquantile(score, 0.99))))
    label = "unlike the training tissue (limit: 1)"
    return draw_values(slide, score, label, clim=ends, ood=score > 1, cmap="Greys")


def draw_gene(slide: SlideContents, values: np.ndarray, label: str, ood: np.ndarray | None) -> Axes:
    """Draw a gene (n,) in the order of the shapes: in one gray without a pattern, in grays if not to be trusted."""
    from deepspot.pl._map.panel import GENE_SPAN, is_flat, limits

    if is_flat(values):
        return draw_values(slide, values, "no pattern: the same value everywhere", ood=ood, facecolors=MISSING)
    cmap = "Greys" if slide.has_many_ood and ood is not None else "viridis"
    return draw_values(slide, values, label, clim=limits(values, GENE_SPAN), ood=ood, cmap=cmap)


def draw_groups(slide: SlideContents, groupby: str) -> Axes:
    """Draw the groups of spots."""
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D

    from deepspot.pl._map.panel import draw_panel

    table_key = str(slide.table_with_labels(groupby))
    labels, colors = slide.group_colors(groupby)
    codes = in_shape_order(slide, table_key, np.where(labels.isna(), np.nan, labels.cat.codes))
    places, backdrop = slide.map
    rows = -(-len(colors) // LEGEND_COLUMNS)
    ax, below = _map_axes(slide, below=0.1 + LEGEND_INCHES * rows)
    style: dict[str, Any] = {"cmap": ListedColormap(list(colors.values())), "clim": (-0.5, len(colors) - 0.5)}
    # Without outlines of spots in doubt, whose color can be that of a group.
    draw_panel(ax, codes, places, backdrop, alpha=FAINT, title="", **style)
    mark: dict[str, Any] = {"marker": "o", "markersize": 7, "linestyle": "none"}
    marks = [Line2D([], [], color=color, label=_short(name), **mark) for name, color in colors.items()]
    below.set_axis_off()
    columns = min(LEGEND_COLUMNS, len(marks))
    below.legend(handles=marks, loc="upper center", ncols=columns, frameon=False, fontsize="small", borderaxespad=0)
    return ax


def draw_pathway(slide: SlideContents, values: np.ndarray, limit: float, ood: np.ndarray | None) -> Axes:
    """Draw the differences (n,) of a score from its mean, in the order of the shapes, on a scale up to ± `limit`."""
    label = "below ← mean of the slide → above"
    return draw_values(slide, values, label, clim=(-limit, limit), ood=ood, cmap="RdBu_r")


def draw_change(slide: SlideContents, change: np.ndarray) -> Axes:
    """Draw the mean of a change (rows of the corrected table, genes) over the genes of every spot."""
    from deepspot.pl._map.panel import GENE_SPAN, limits
    from deepspot.pl._map.values import ood_spots

    values = in_shape_order(slide, str(slide.corrected_key), change.mean(axis=1))
    ood = ood_spots(slide.sdata, slide.shapes_key, str(slide.corrected_key))
    ends = (0.0, max(GENE_SPAN, limits(values)[1]))
    return draw_values(slide, values, "mean absolute change, log scale", clim=ends, ood=ood, cmap="viridis")


def draw_values(slide: SlideContents, values: np.ndarray, label: str, **style: Any) -> Axes:
    """Draw a map of values (n,) in the order of the shapes, with a color bar below."""
    from deepspot.pl._map.panel import draw_panel

    places, backdrop = slide.map
    ax, below = _map_axes(slide, below=BAR_INCHES)
    shapes = draw_panel(ax, values, places, backdrop, alpha=FAINT, title="", **style)
    ax.set_title("")  # the number of spots out of distribution is in the text
    if "cmap" in style:
        _draw_bar(shapes, below, values, label)
    else:
        below.set_axis_off()
        below.text(0.5, 0.6, label, ha="center", va="center", fontsize="small")
    return ax


def in_shape_order(slide: SlideContents, table_key: str, values: np.ndarray) -> np.ndarray:
    """Return values of the rows of a table (n,) in the order of the shapes; NaN for shapes without a row."""
    rows, positions = match_rows(slide.sdata.tables[table_key], slide.sdata, slide.shapes_key)
    spread = np.full(slide.n_spots, np.nan)
    spread[positions] = values[rows]
    return spread


def gene_values(slide: SlideContents, genes: list[str]) -> dict[str, tuple[np.ndarray, str]]:
    """Return measured, predicted and corrected genes (n, genes) in the order of the shapes, and their unit.

    Measured genes that cannot be read are left out, with a note in `slide.missing`.
    """
    from deepspot.pl._map.values import measured_values, predicted_values, unit_label

    source = str(slide.prediction_key or slide.corrected_key)
    layer = None if slide.prediction_key else "predicted"
    scale = comparable_scale(slide.sdata.tables[source])
    found: dict[str, tuple[np.ndarray, str]] = {}
    place = slide.sdata, slide.shapes_key
    if slide.measured_key is not None:
        try:
            values = measured_values(*place, slide.measured_key, genes, layer=slide.layer, scale=scale)
            found["measured"] = values, unit_label(slide.sdata, slide.measured_key, slide.layer, scale)
        except (KeyError, ValueError) as error:
            slide.missing["Maps of measured genes"] = str(error.args[0])
    found["predicted"] = predicted_values(*place, source, genes, layer=layer), unit_label(slide.sdata, source)
    if slide.corrected_key is not None:
        unit = unit_label(slide.sdata, slide.corrected_key)
        found["corrected"] = predicted_values(*place, slide.corrected_key, genes), unit
    return found


def _draw_bar(shapes: ScalarMappable, below: Axes, values: np.ndarray, label: str) -> None:
    from deepspot.pl._map.panel import draw_color_bar

    inside: Any = below.inset_axes((0.03, 0.8, 0.94, 0.2))
    draw_color_bar(shapes, below, values, label, cax=inside)
    inside.xaxis.label.set_size("small")
    inside.tick_params(labelsize="small", pad=1)
    below.set_axis_off()


def _map_axes(slide: SlideContents, inches: float = MAP_INCHES, *, below: float = 0.0) -> tuple[Axes, Any]:
    """Return axes that fill a figure, and axes of a height in inches below them, None without."""
    import matplotlib.pyplot as plt

    pixels = slide.map[1].pixels
    aspect = pixels.shape[0] / pixels.shape[1]
    width = min(inches, 1.2 * inches / aspect)  # a tall slide is at most a fifth higher than wide ones are wide
    height = width * aspect
    figure = plt.figure(figsize=(width, height + below))
    share = below / (height + below)
    ax = figure.add_axes((0, share, 1, 1 - share))
    return ax, figure.add_axes((0.02, 0, 0.96, share * 0.92)) if below else None


def _short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
