from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked
from deepspot._core.validate import check_count
from deepspot._sdata.tables import MARKER_COLUMNS, find_result
from deepspot.errors import InputError

from ._map.panel import draw_color_bar
from ._map.values import groups_of
from ._style import MISSING, one_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

ROW_INCHES, COLUMN_INCHES, MARGIN_INCHES = 0.21, 0.62, (2.6, 1.7)
# Limits the color scale, so that a few extreme genes do not dominate it.
QUANTILE = 0.98
LONG_NAME = 7


@checked
def markers(
    sdata: SpatialData,
    *,
    table_key: str | None = None,
    markers_key: str = "markers",
    groups: Sequence[str] | None = None,
    n_top: int = 10,
    cmap: str | Colormap = "RdBu_r",
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a heat map of the log2 fold changes of the top marker genes of each group in all groups.

    Rows are genes: for each group those that are significantly higher there, by decreasing log2 fold change. Frames
    mark the markers of each group; a gene that is a marker of several groups is drawn once. Colors are log2 fold
    changes, white is no change. A dot marks a gene that is significantly higher in the group.

    Parameters
    ----------
    sdata
        Object with marker genes, see :func:`deepspot.tl.markers`. It is not changed.
    table_key
        Table with the marker genes; needed only if several have some.
    markers_key
        Key of the marker genes in `uns` of the table.
    groups
        Groups to draw, in this order; by default all.
    n_top
        Maximum number of genes for each group.
    cmap
        Diverging color map of matplotlib; its center is no change.
    figsize
        Width and height in inches; by default from the number of genes and groups.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If there are no marker genes, or a group does not exist.
    ValueError
        If several tables have marker genes, no gene is significant and higher in any of the groups, or `n_top` is
        below 1.

    References
    ----------
    DeepSpot, figure 4B.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=5, n_cols=6)["P1_S1"]
    >>> table = sdata.tables["table"]
    >>> table.X, table.uns["log1p"] = table.layers["expected"], {}
    >>> table.obs["class"] = ["tumor" if share > 0.5 else "other" for share in table.obsm["composition"][:, 0]]
    >>> ds.tl.markers(sdata, "class", table_key="table")
    >>> ax = ds.pl.markers(sdata, n_top=3)
    """
    from matplotlib import colormaps
    from matplotlib.colors import CenteredNorm

    check_count(n_top, "n_top")
    table_key, results = find_result(
        sdata, table_key, markers_key, "ds.tl.markers(sdata, groupby)", columns=MARKER_COLUMNS
    )
    groups = groups_of(results, groups, "groups")
    results = results.assign(group=results["group"].astype(str), gene=results["gene"].astype(str))
    top = top_genes(results, groups, n_top)
    if not any(top.values()):
        raise InputError(
            f"No gene is significant and higher in any of the groups {groups}, so there is nothing to draw. All genes "
            f"are in sdata.tables[{table_key!r}].uns[{markers_key!r}]."
        )
    change = results.pivot(index="gene", columns="group", values="logfoldchange")
    # A gene is drawn once, with the group in which its fold change is largest.
    leading = {
        gene: max((group for group in groups if gene in top[group]), key=lambda group: change.loc[gene, group])
        for genes in top.values()
        for gene in genes
    }
    blocks = [[gene for gene in top[group] if leading[gene] == group] for group in groups]
    genes = [gene for block in blocks for gene in block]
    values = change.reindex(index=genes, columns=groups).to_numpy(dtype=float)
    significant = results.pivot(index="gene", columns="group", values="significant").reindex(
        index=genes, columns=groups
    )
    rows, columns = np.nonzero(significant == True)  # noqa: E712 - NaN if not tested
    size = (COLUMN_INCHES * len(groups) + MARGIN_INCHES[0], ROW_INCHES * len(genes) + MARGIN_INCHES[1])
    ax = one_axes(ax, figsize or size)
    image = ax.imshow(
        np.ma.masked_invalid(values),
        cmap=colormaps[cmap] if isinstance(cmap, str) else cmap,
        norm=CenteredNorm(0, float(np.nanquantile(np.abs(values), QUANTILE)) or 1.0),
        aspect="auto",
        interpolation="nearest",
    )
    ax.set_facecolor(MISSING)
    for column in range(1, len(groups)):
        ax.axvline(column - 0.5, color="white", linewidth=1.5)
    for row in np.cumsum([len(block) for block in blocks if block])[:-1]:
        ax.axhline(row - 0.5, color="white", linewidth=4)
    _frame(ax, genes, top)
    ax.scatter(columns, rows, s=12, c="white", edgecolors="black", linewidths=0.7, zorder=3)
    ax.set_yticks(range(len(genes)), genes, fontsize="small")
    rotated: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(groups)), groups, **rotated if max(map(len, groups)) > LONG_NAME else {})
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    parameters = sdata.tables[table_key].uns.get(f"deepspot_{markers_key}", {})
    ax.set_title(f"Marker genes by {parameters.get('groupby', 'group')}")
    test = " (block test)" if parameters.get("test") == "blocks" else ""
    none = [group for group, genes in top.items() if not genes]
    ax.set_xlabel(
        f"dot: significantly higher{test}; frame: one of the top {n_top} of its group"
        + (f"\nno significant marker: {', '.join(none)}" if none else ""),
        fontsize="small",
    )
    draw_color_bar(image, ax, values, f"log2 fold change against {parameters.get('reference', 'rest')}")
    return ax


def top_genes(results: pd.DataFrame, groups: Sequence[str], n_top: int) -> dict[str, list[str]]:
    """Return the significant genes of each group with the largest positive fold changes."""
    leading = results[results["significant"].astype(bool) & (results["logfoldchange"] > 0)]
    leading = leading.sort_values("logfoldchange", ascending=False, kind="stable")
    return {group: list(leading.loc[leading["group"] == group, "gene"].head(n_top)) for group in groups}


def _frame(ax: Axes, genes: list[str], top: dict[str, list[str]]) -> None:
    """Draw a frame around consecutive markers of each group."""
    from matplotlib.patches import Rectangle

    for column, markers in enumerate(top.values()):
        framed = np.concatenate([[False], np.isin(genes, markers), [False]])
        starts, ends = np.flatnonzero(framed[1:] & ~framed[:-1]), np.flatnonzero(framed[:-1] & ~framed[1:])
        for first, last in zip(starts, ends, strict=True):
            box = Rectangle(
                (column - 0.5, float(first) - 0.5), 1, float(last - first), fill=False, linewidth=1.5, zorder=4
            )
            ax.add_patch(box).set_clip_on(False)
