from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._sdata.tables import find_result
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
# A few genes must not take the colors of all others.
QUANTILE = 0.98
LONG_NAME = 7


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
    """Draw how much higher or lower the top marker genes of each group are in all groups.

    Rows are genes: for each group those that are significantly higher there, with the largest log2 fold change first. A
    frame shows whose markers they are; a gene that leads in several groups is drawn once. Colors are log2 fold
    changes, white is none; a dot says that the gene is significantly higher in the group.

    Parameters
    ----------
    sdata
        Object with marker genes, see :func:`deepspot.tl.markers`. It is not changed.
    table_key
        Table with the marker genes; needed only if several have some.
    markers_key
        Where they are in `uns` of the table.
    groups
        Groups to draw, in this order; by default all.
    n_top
        Most genes for each group.
    cmap
        Color map of matplotlib, with its middle at no change.
    figsize
        Width and height in inches; by default it grows with genes and groups.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If no marker genes were computed, or a group does not exist.
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

    if n_top < 1:
        raise InputError(f"`n_top` must be at least 1, got {n_top}.")
    table_key, results = find_result(sdata, table_key, markers_key, "ds.tl.markers(sdata, groupby)")
    drawn = groups_of(results, groups, "groups")
    results = results.assign(group=results["group"].astype(str), gene=results["gene"].astype(str))
    top = top_genes(results, drawn, n_top)
    if not any(top.values()):
        raise InputError(
            f"No gene is significant and higher in any of the groups {drawn}, so there is nothing to draw. All genes "
            f"are in sdata.tables[{table_key!r}].uns[{markers_key!r}]."
        )
    change = results.pivot(index="gene", columns="group", values="logfoldchange")
    # A gene is drawn once, with the group that it leads in by most.
    leading = {
        gene: max((group for group in drawn if gene in top[group]), key=lambda group: change.loc[gene, group])
        for genes in top.values()
        for gene in genes
    }
    blocks = [[gene for gene in top[group] if leading[gene] == group] for group in drawn]
    genes = [gene for block in blocks for gene in block]
    values = change.reindex(index=genes, columns=drawn).to_numpy(dtype=float)
    significant = results.pivot(index="gene", columns="group", values="significant").reindex(index=genes, columns=drawn)
    rows, columns = np.nonzero(significant == True)  # noqa: E712 - untested is NaN
    size = (COLUMN_INCHES * len(drawn) + MARGIN_INCHES[0], ROW_INCHES * len(genes) + MARGIN_INCHES[1])
    ax = one_axes(ax, figsize or size)
    image = ax.imshow(
        np.ma.masked_invalid(values),
        cmap=colormaps[cmap] if isinstance(cmap, str) else cmap,
        norm=CenteredNorm(0, float(np.nanquantile(np.abs(values), QUANTILE)) or 1.0),
        aspect="auto",
        interpolation="nearest",
    )
    ax.set_facecolor(MISSING)
    for column in range(1, len(drawn)):
        ax.axvline(column - 0.5, color="white", linewidth=1.5)
    for row in np.cumsum([len(block) for block in blocks if block])[:-1]:
        ax.axhline(row - 0.5, color="white", linewidth=4)
    _frame(ax, genes, top)
    ax.scatter(columns, rows, s=12, c="white", edgecolors="black", linewidths=0.7, zorder=3)
    ax.set_yticks(range(len(genes)), genes, fontsize="small")
    turned: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(drawn)), drawn, **turned if max(map(len, drawn)) > LONG_NAME else {})
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    made = sdata.tables[table_key].uns.get(f"deepspot_{markers_key}", {})
    ax.set_title(f"Marker genes by {made.get('groupby', 'group')}")
    test = " (block test)" if made.get("test") == "blocks" else ""
    none = [group for group, genes in top.items() if not genes]
    ax.set_xlabel(
        f"dot: significantly higher{test}; frame: one of the top {n_top} of its group"
        + (f"\nno significant marker: {', '.join(none)}" if none else ""),
        fontsize="small",
    )
    draw_color_bar(image, ax, values, f"log2 fold change against {made.get('reference', 'rest')}")
    return ax


def top_genes(results: pd.DataFrame, groups: Sequence[str], n_top: int) -> dict[str, list[str]]:
    """Markers of each group: significant, higher there, by fold change."""
    leading = results[results["significant"].astype(bool) & (results["logfoldchange"] > 0)]
    leading = leading.sort_values("logfoldchange", ascending=False, kind="stable")
    return {group: list(leading.loc[leading["group"] == group, "gene"].head(n_top)) for group in groups}


def _frame(ax: Axes, genes: list[str], top: dict[str, list[str]]) -> None:
    """Frame the markers of each group; those that follow one another share a frame."""
    from matplotlib.patches import Rectangle

    for column, wanted in enumerate(top.values()):
        mine = np.concatenate([[False], np.isin(genes, wanted), [False]])
        starts, ends = np.flatnonzero(mine[1:] & ~mine[:-1]), np.flatnonzero(mine[:-1] & ~mine[1:])
        for first, last in zip(starts, ends, strict=True):
            box = Rectangle(
                (column - 0.5, float(first) - 0.5), 1, float(last - first), fill=False, linewidth=1.5, zorder=4
            )
            ax.add_patch(box).set_clip_on(False)
