"""Regions or clusters, what marks them, and which pathways are active where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from deepspot._core.html import figure, table
from deepspot._sdata.tables import labels_of, match_rows

from .figures import draw_groups, shot
from .section import Section, attempt, paragraph, subheading
from .survey import Slide, table_of_groups

if TYPE_CHECKING:
    from anndata import AnnData

N_MARKERS, N_TERMS, MOST_SETS = 5, 5, 30
SIGNIFICANT = 0.05
HOW = {
    "Regions or clusters": "`ds.pp.annotate(sdata, regions)` labels spots by a pathologist's regions; "
    "`scanpy.tl.leiden` finds clusters.",
    "Marker genes": '`ds.tl.markers(sdata, "annotation")` finds the genes that tell groups of spots apart.',
    "Gene sets": '`ds.tl.enrich(sdata, "sets.gmt")`, after `ds.tl.markers`, says in which gene sets the markers are.',
    "Pathways": "`ds.tl.pathways(sdata)` scores the activity of pathways in every spot.",
}


def groups(slide: Slide) -> Section | None:
    """Groups of spots, their markers and the gene sets of these."""
    parts = []
    if slide.groupby is None:
        slide.missing["Regions or clusters"] = HOW["Regions or clusters"]
    else:
        by = slide.groupby
        parts.append(attempt(slide, "Map of groups", lambda: _map(slide, by)))
    key = slide.holding("uns", "markers")
    if key is None:
        slide.missing["Marker genes"] = HOW["Marker genes"]
    else:
        parts.append(subheading("Marker genes"))
        parts.append(paragraph(_tested(slide, slide.sdata.tables[key])))
        parts.append(attempt(slide, "Figure of marker genes", lambda: _markers(slide, key)))
        parts.append(_marker_table(slide.sdata.tables[key].uns["markers"]))
    key_sets = slide.holding("uns", "enrichment")
    if key_sets is None:
        slide.missing["Gene sets"] = HOW["Gene sets"]
    else:
        parts.append(subheading("Gene sets"))
        parts.append(attempt(slide, "Figure of gene sets", lambda: _enrichment(slide, key_sets)))
        parts.append(_set_table(slide.sdata.tables[key_sets].uns["enrichment"]))
    heading = "Regions" if slide.groupby == "annotation" else "Groups of spots"
    return Section(heading, "".join(parts)) if parts else None


def pathways(slide: Slide) -> Section | None:
    """Maps of pathways."""
    from deepspot.pl._pathways import pathways

    key = slide.holding("obsm", "score_mlm")
    if key is None:
        slide.missing["Pathways"] = HOW["Pathways"]
        return None
    drawn = attempt(slide, "Maps of pathways", lambda: figure(
        shot(pathways(slide.sdata, table_key=key, image_key=slide.image_key, shapes_key=slide.shapes_key)),
        "Red: more active than on average over this slide; blue: less. All maps share one scale.",
    ))  # fmt: skip
    explained = (
        "A pathway is scored by the genes that are known to answer to it, which is steadier than any one gene. It is "
        "still an estimate from predicted genes."
    )
    return Section("Pathways", paragraph(explained) + drawn) if drawn else None


def _map(slide: Slide, by: str) -> str:
    from deepspot.pl._map.coloring import label_colors

    key = table_of_groups(slide, by, must=True)
    labels = labels_of(slide.sdata, str(key), by)
    rows, positions = match_rows(slide.sdata.tables[str(key)], slide.sdata, slide.shapes_key)
    spread = pd.Series(pd.Categorical.from_codes([-1] * slide.n_spots, labels.cat.categories))
    spread.iloc[positions] = labels.iloc[rows].to_numpy()
    colours = label_colors(slide.sdata.tables[str(key)], by, [str(name) for name in labels.cat.categories])
    return figure(shot(draw_groups(slide, spread, colours)), _called(by))


def _called(by: str) -> str:
    if by == "leiden":
        return "Clusters: spots of one colour have similar genes (Leiden)."
    return "Regions as annotated." if by == "annotation" else f"Spots by {by}."


def _tested(slide: Slide, holder: AnnData) -> str:
    by = str(holder.uns.get("deepspot_markers", {}).get("groupby", "group"))
    found = holder.uns["markers"]
    said = f"Genes that are higher in one group ({by}) than in all other spots."
    if found["p_block_adj"].notna().any():
        said += " The test knows that neighbouring spots resemble each other (block test)."
    else:
        said += " Spots are no independent samples, as neighbours resemble each other: the p-values are too small."
    if by == "leiden":
        said += " The clusters were found in genes, so they differ in genes by construction: p-values here only rank."
    return f"{said} One slide says nothing of other patients."


def _markers(slide: Slide, key: str) -> str:
    from deepspot.pl._markers import markers

    caption = (
        "Rows are genes, columns are groups. Red: higher in the group than elsewhere; blue: lower. A frame shows whose "
        "markers they are."
    )
    return figure(shot(markers(slide.sdata, table_key=key, n_top=N_MARKERS)), caption)


def _marker_table(found: pd.DataFrame) -> str:
    from deepspot.pl._map.values import groups_of
    from deepspot.pl._markers import top_genes

    found = found.assign(group=found["group"].astype(str), gene=found["gene"].astype(str))
    change = found.set_index(["group", "gene"])["logfoldchange"]
    rows = []
    for group, genes in top_genes(found, groups_of(found, None, "groups"), 2 * N_MARKERS).items():
        told = ", ".join(f"{gene} ({change[group, gene]:+.2f})" for gene in genes)
        n = int((found["significant"].astype(bool) & (found["group"] == group) & (found["logfoldchange"] > 0)).sum())
        rows.append([group, f"{n:,}", told or "none"])
    return table(["Group", "markers", "the first of them, with log2 fold change"], rows, text=True)


def _enrichment(slide: Slide, key: str) -> str:
    from deepspot.pl._enrichment import enrichment

    caption = (
        "Sets of genes that hold more of a group's markers than chance would give. Blue: significant, adjusted for the "
        "number of sets. At the bars: markers in the set, of the genes of the set that are known here."
    )
    return figure(shot(enrichment(slide.sdata, table_key=key, n_top=N_TERMS)), caption)


def _set_table(found: pd.DataFrame) -> str:
    rows = [
        [str(row.group), str(row.term), f"{row.n_overlap:.0f} of {row.n_set:.0f}", f"{row.p_adj:.2g}"]
        for row in found[found["p_adj"] < SIGNIFICANT].itertuples()
    ]
    if not rows:
        return paragraph("No gene set is significant after adjustment for their number.")
    more = paragraph(f"and {len(rows) - MOST_SETS:,} more.") if len(rows) > MOST_SETS else ""
    return table(["Group", "gene set", "markers in it", "adjusted p"], rows[:MOST_SETS], text=True) + more
