"""Groups of spots, their markers and gene sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from .contents import CLUSTERS
from .figures import NOT_DRAWN, to_jpeg, try_drawing, untitled
from .maps import draw_groups

if TYPE_CHECKING:
    from anndata import AnnData

    from .contents import SlideContents

N_MARKERS, N_SETS_DRAWN, N_SETS_LISTED = 5, 5, 30
SIGNIFICANT = 0.05
# Groups with fewer spots are not tested by the command line, and show nothing that is typical.
FEW_SPOTS = 3
MANY_GROUPS = 12


def group_facts(slide: SlideContents, groupby: str | None) -> dict[str, Any] | None:
    """Return the groups with their origin, sizes and map, and the figures and tables of markers and gene sets."""
    marked = _usable(slide, "markers", "Marker genes")
    enriched = _usable(slide, "enrichment", "Gene sets")
    facts: dict[str, Any] = {"image": None, "origin": None, "rows": [], "few": [], "markers": None, "sets": None}
    markers = None if marked is None else _markers(slide.sdata.tables[marked])
    if groupby is None:
        slide.missing["Regions or clusters"] = None
    else:
        facts["image"] = try_drawing(slide, "Map of groups", draw_groups, slide, groupby, to_image=to_jpeg)
        facts["origin"] = slide.group_origin(groupby)
        labels, colors = slide.group_colors(groupby)
        sizes = labels.value_counts(sort=False)
        facts["few"] = [(str(name), int(n)) for name, n in sizes.items() if n < FEW_SPOTS]
        facts["unlabeled"] = int(labels.isna().sum())
        facts["rows"] = [{"name": str(name), "color": colors[str(name)], "n": int(n)} for name, n in sizes.items()]
        facts["predicted"] = groupby == CLUSTERS and facts["origin"].endswith("predicted genes")
    if markers is not None:
        from deepspot.pl._markers import markers as heat_map

        n_groups, n_genes = len(markers["tested"]), markers.pop("n_drawn")
        # Half of the page; the default for many groups, which is wider.
        size = (6.2, 0.21 * n_genes + 1.5) if n_groups <= MANY_GROUPS else None
        options: dict[str, Any] = {"table_key": marked, "n_top": N_MARKERS, "figsize": size}
        image = try_drawing(slide, "Figure of marker genes", untitled, heat_map, slide.sdata, **options)
        facts["markers"] = {"image": image, "origin": slide.group_origin(markers["groupby"]), **markers}
        facts["markers"]["measured"] = marked == slide.measured_key
    if enriched is not None:
        facts["sets"] = _sets(slide, enriched)
    return facts if any(facts[name] for name in ("image", "markers", "sets")) else None


def _usable(slide: SlideContents, entry: str, part: str) -> str | None:
    """Return the table with a result, None without or if it follows from genes that are not to be trusted."""
    key = slide.table_with_result("uns", entry)
    if key is None:
        slide.missing[part] = None
    elif slide.has_many_ood and key != slide.measured_key:
        slide.missing[part] = NOT_DRAWN.format(slide.noun.many)
        return None
    return key


def _markers(table: AnnData) -> dict[str, Any]:
    """Return the number of markers and the top markers of each group, and the kind of test."""
    from deepspot.pl._map.values import groups_of
    from deepspot.pl._markers import top_genes

    results = table.uns["markers"]
    results = results.assign(group=results["group"].astype(str), gene=results["gene"].astype(str))
    change = results.set_index(["group", "gene"])["logfoldchange"]
    higher = results[results["significant"].astype(bool) & (results["logfoldchange"] > 0)]["group"].value_counts()
    top = top_genes(results, groups_of(results, None, "groups"), 2 * N_MARKERS)
    groupby = str(table.uns.get("deepspot_markers", {}).get("groupby", "group"))
    return {
        "groupby": groupby,
        "n_drawn": len({gene for genes in top.values() for gene in genes[:N_MARKERS]}),
        "block_test": bool(results["p_block_adj"].notna().any()),
        "tested": {
            group: {
                "n": int(higher.get(group, 0)),
                "top": ", ".join(f"{gene} ({change[group, gene]:+.2f})".replace("-", "−") for gene in genes),
            }
            for group, genes in top.items()
        },
    }


def _sets(slide: SlideContents, key: str) -> dict[str, Any]:
    """Draw the gene sets of each group, and list the significant ones."""
    from deepspot.pl._enrichment import enrichment
    from deepspot.pl._map.values import groups_of

    sets: pd.DataFrame = slide.sdata.tables[key].uns["enrichment"]
    names = groups_of(sets, None, "groups")
    if not names:
        slide.missing["Figure of gene sets"] = "No gene set contains a marker."
    options: dict[str, Any] = {"table_key": key, "n_top": N_SETS_DRAWN, "figsize": (4.0, 2.2)}
    draw = untitled, enrichment, slide.sdata
    images = [(name, try_drawing(slide, f"Gene sets of {name}", *draw, groups=name, **options)) for name in names]
    rows = [
        (row.group, row.term, f"{row.n_overlap:.0f} of {row.n_set:.0f}", f"{row.p_adj:.2g}")
        for row in sets[sets["p_adj"] < SIGNIFICANT].itertuples()
    ]
    return {"images": images, "rows": rows[:N_SETS_LISTED], "n_more": len(rows[N_SETS_LISTED:])}
