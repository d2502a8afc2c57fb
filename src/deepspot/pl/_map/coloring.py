"""Colors of spots by a gene, labels or numbers, with legend or color bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._sdata.tables import labels_of
from deepspot.errors import InputError, MissingKeyError
from deepspot.pl._style import COLORS, MISSING

from .panel import GENE_SPAN, draw_color_bar, limits
from .values import describe_values, unit_label

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

# For more than eight groups: no such palette suits all kinds of color vision.
MORE = ("#332288", "#882255", "#44AA99", "#DDCC77", "#AA4499", "#999933", "#661100", "#6699CC", "#888888", "#117733")


@dataclass(frozen=True)
class Coloring:
    """Colors (n, 4), and the color of each label, or a color scale with its values and its label."""

    rgba: np.ndarray
    title: str
    names: dict[str, str] | None = None
    bar: tuple[ScalarMappable, np.ndarray, str] | None = None

    def explain(self, ax: Axes) -> None:
        """Draw the color bar or the legend."""
        from matplotlib.lines import Line2D

        if self.bar is not None:
            mappable, values, label = self.bar
            draw_color_bar(mappable, ax, values, label)
        if self.names is not None:
            marks = [
                Line2D([], [], marker="o", linestyle="none", color=c, label=name) for name, c in self.names.items()
            ]
            ax.legend(handles=marks, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def coloring(sdata: SpatialData, table_key: str, color: str, rows: np.ndarray, cmap: str | Colormap) -> Coloring:
    """Color rows of a table by a gene, else by a column of numbers or labels."""
    table = sdata.tables[table_key]
    if color in table.var_names:
        column = table.X[:, table.var_names.get_loc(color)][rows]
        values = np.asarray(column.toarray() if hasattr(column, "toarray") else column, dtype=float).ravel()
        return _numbers(
            values, f"{color} {describe_values(sdata, table_key)}", unit_label(sdata, table_key), cmap, GENE_SPAN
        )
    if color in table.obs and pd.api.types.is_numeric_dtype(table.obs[color]) and table.obs[color].dtype != bool:
        return _numbers(table.obs[color].to_numpy(dtype=float)[rows], color, color, cmap)
    try:
        labels = labels_of(sdata, table_key, color)
    except KeyError as error:
        raise MissingKeyError(f"`color` is not a gene of sdata.tables[{table_key!r}]. {error.args[0]}") from error
    return _names(labels.iloc[rows], color, table)


def _numbers(values: np.ndarray, title: str, label: str, cmap: str | Colormap, least: float = 0.0) -> Coloring:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgba

    known = np.isfinite(values)
    if not known.any():
        raise InputError(f"{title!r} has no value in any spot. Color by something else.")
    scale = ScalarMappable(Normalize(*limits(values, least)), cmap)
    rgba = scale.to_rgba(np.ma.masked_invalid(values))
    rgba[~known] = to_rgba(MISSING)
    return Coloring(rgba, title, bar=(scale, values, label))


def _names(labels: pd.Series, title: str, table: AnnData) -> Coloring:
    from matplotlib.colors import to_rgba_array

    names = label_colors(table, title, [str(name) for name in labels.cat.categories])
    missing = labels.isna()
    rgba = to_rgba_array(list(labels.astype(str).map(names).where(~missing, MISSING)))
    shown = {name: color for name, color in names.items() if (labels == name).any()}
    return Coloring(rgba, title, names=shown | ({"none": MISSING} if missing.any() else {}))


def label_colors(table: AnnData, key: str, names: Sequence[str]) -> dict[str, str]:
    """Return the color of each label: from `uns` of the table (scanpy, annotation), else from the default palette."""
    from matplotlib.colors import is_color_like, to_hex

    stored, column = table.uns.get(f"{key}_colors", ()), table.obs.get(key)
    # scanpy has one color for each category, also for those that no spot has.
    categories = column.cat.categories if isinstance(getattr(column, "dtype", None), pd.CategoricalDtype) else names
    if len(stored) == len(categories) and all(map(is_color_like, stored)):
        colors = dict(zip(map(str, categories), map(to_hex, stored), strict=True))
        if set(names) <= set(colors):
            return {name: colors[name] for name in names}
    palette = (*COLORS, *MORE)
    return {name: palette[place % len(palette)] for place, name in enumerate(names)}
