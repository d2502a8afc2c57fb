from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked
from deepspot._core.validate import check_count
from deepspot._sdata.tables import find_result
from deepspot.errors import InputError

from ._map.values import groups_of
from ._style import BLUE, GRAY, several_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

SIGNIFICANT = 0.05
SMALLEST = 1e-300
COLUMNS, PANEL_INCHES, LINE_INCHES, WIDTH = 2, 5.6, 0.17, 34
# Identifiers that libraries append: "(GO:0006119)", "R-HSA-1640170", "WP2813", "Homo sapiens hsa04110".
IDENTIFIER = re.compile(
    r"\s*(\((GO|HP|MP|DOID):?\d+\)|\bR-[A-Z]{3}-\d+|\bWP\d+|\bHomo sapiens\b.*|\b(hsa|mmu)\d{5})\s*$"
)


@checked
def enrichment(
    sdata: SpatialData,
    *,
    table_key: str | None = None,
    enrichment_key: str = "enrichment",
    groups: str | Sequence[str] | None = None,
    n_top: int = 10,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot the gene sets in which the markers of each group are overrepresented.

    Each panel shows the gene sets of a group with the smallest p-values as bars. The length is −log10 of the adjusted
    p-value; bars beyond the dashed line at 0.05 are blue. The text at a bar is the number of markers in the set, of the
    genes of the set in the background.

    Parameters
    ----------
    sdata
        Object with results of :func:`deepspot.tl.enrich`. It is not changed.
    table_key
        Table with the result; needed only if several have one.
    enrichment_key
        Key of the result in `uns` of the table.
    groups
        One or more groups; by default all.
    n_top
        Maximum number of gene sets for each group.
    figsize
        Width and height in inches; by default from the number of groups and gene sets.
    ax
        Axes to draw into, one for each group; by default a new figure.

    Returns
    -------
    The axes, one for each group.

    Raises
    ------
    KeyError
        If there is no such result, or no such group.
    ValueError
        If several tables have a result, it is empty, `ax` does not hold one axes for each group, or `n_top` is below 1.

    References
    ----------
    DeepSpot, figure 4C.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=5, n_cols=6)["P1_S1"]
    >>> table = sdata.tables["table"]
    >>> table.X, table.uns["log1p"] = table.layers["expected"], {}
    >>> table.obs["class"] = ["tumor" if share > 0.5 else "other" for share in table.obsm["composition"][:, 0]]
    >>> ds.tl.markers(sdata, "class", table_key="table")
    >>> programs = {program: list(genes) for program, genes in table.var_names.groupby(table.var["program"]).items()}
    >>> ds.tl.enrich(sdata, programs)
    >>> axes = ds.pl.enrichment(sdata, groups="tumor")
    """
    check_count(n_top, "n_top")
    table_key, results = find_result(
        sdata, table_key, enrichment_key, "ds.tl.enrich(sdata, gene_sets)", columns=("group", "term", "p", "p_adj")
    )
    groups = groups_of(results, groups, "groups")
    if not groups:
        raise InputError(
            f"sdata.tables[{table_key!r}].uns[{enrichment_key!r}] holds no gene set: no gene set contains a marker."
        )
    results = results.assign(group=results["group"].astype(str), term=short_names(list(results["term"].astype(str))))
    top = [results[results["group"] == name].nsmallest(n_top, "p", keep="first") for name in groups]
    axes = _new_axes(top, figsize) if ax is None else several_axes(ax, len(top), "groups")
    uns = sdata.tables[table_key].uns
    markers_key = uns.get(f"deepspot_{enrichment_key}", {}).get("markers_key", "markers")
    groupby = uns.get(f"deepspot_{markers_key}", {}).get("groupby", "group")
    for panel, name, terms in zip(axes, groups, top, strict=True):
        _bars(panel, terms)
        panel.set_title(f"{groupby}: {name}", loc="left", fontweight="bold")
    return axes


def short_names(terms: list[str]) -> list[str]:
    """Return names of gene sets without their common prefix, trailing identifiers and underscores."""
    common = terms[0].split("_")[0] + "_" if terms else ""
    if len(set(terms)) < 2 or not all(term.startswith(common) and len(term) > len(common) for term in terms):
        common = ""
    return [IDENTIFIER.sub("", term.removeprefix(common)).replace("_", " ").strip() or term for term in terms]


def _bars(ax: Axes, terms: pd.DataFrame) -> None:
    length = -np.log10(terms["p_adj"].to_numpy(dtype=float).clip(SMALLEST, 1))
    significant = terms["p_adj"].to_numpy(dtype=float) < SIGNIFICANT
    names = [textwrap.fill(term, WIDTH, max_lines=2, placeholder=" …") for term in terms["term"]]
    ax.barh(range(len(terms)), length, color=np.where(significant, BLUE, GRAY), height=0.7)
    ax.set_yticks(range(len(terms)), names, fontsize="small", linespacing=0.95)
    ax.invert_yaxis()
    border = -np.log10(SIGNIFICANT)
    ax.axvline(border, color="black", linewidth=0.9, linestyle="--", zorder=1.5)
    ax.set_xlim(0, 1.22 * max(length.max(initial=0), 1.3 * border))
    for row, (overlap, size) in enumerate(zip(terms["n_overlap"], terms["n_set"], strict=True)):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        style: dict[str, Any] = {"va": "center", "fontsize": "x-small", "bbox": box}
        ax.annotate(f"{overlap:.0f} of {size:.0f}", (length[row], row), (4, 0), textcoords="offset points", **style)
    ax.set_xlabel("−log10 adjusted p (dashed: 0.05)", fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right"]].set_visible(False)


def _new_axes(top: list[pd.DataFrame], figsize: tuple[float, float] | None) -> list[Axes]:
    import matplotlib.pyplot as plt

    columns = min(COLUMNS, len(top))
    most = [max(map(len, top[first : first + columns])) for first in range(0, len(top), columns)]
    heights = [0.9 + 2 * LINE_INCHES * max(bars, 2) for bars in most]
    size = figsize or (PANEL_INCHES * columns, sum(heights))
    _, grid = plt.subplots(
        len(heights), columns, figsize=size, squeeze=False, layout="constrained", height_ratios=heights
    )
    panels = list(grid.ravel())
    for empty in panels[len(top) :]:
        empty.set_axis_off()
    return panels[: len(top)]
