from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import checked, keys_in
from deepspot._core.logging import logger
from deepspot._core.validate import check_count
from deepspot._sdata.tables import MARKER_COLUMNS, find_result
from deepspot._sdata.write import add_entries, check_entries
from deepspot.errors import InputError

from .gene_sets import GeneSets, read_gene_sets

if TYPE_CHECKING:
    from spatialdata import SpatialData


NAMES = {
    "Term": "term",
    "Overlap": "overlap",
    "Odds Ratio": "odds_ratio",
    "P-value": "p",
    "Combined Score": "combined_score",
    "Genes": "genes",
}
TYPES = {"n_overlap": int, "n_set": int, "odds_ratio": float, "p": float, "p_adj": float, "combined_score": float}
COLUMNS = ["group", "term", "overlap", *TYPES, "genes"]


@checked
def enrich(
    sdata: SpatialData,
    gene_sets: GeneSets | str | Path | None = None,
    *,
    groups: str | Sequence[str] | None = None,
    markers_key: str = "markers",
    table_key: str | None = None,
    n_top: int = 100,
    background: Sequence[str] | None = None,
    organism: str = "human",
    key_added: str = "enrichment",
    overwrite: bool = False,
) -> None:
    """Find gene sets in which the markers of a group are overrepresented.

    The significant markers with the highest log fold changes are compared with every gene set by the hypergeometric
    test of gseapy. The test runs locally; no gene names are uploaded. A library of Enrichr is downloaded once and
    cached.

    Parameters
    ----------
    sdata
        Object with results of :func:`deepspot.tl.markers`.
    gene_sets
        Genes by name of the set: a dict, the path of a GMT file, or the name of a library of Enrichr. By default the
        library of the paper, ``"Cancer_Cell_Line_Encyclopedia"``.
    groups
        One or more groups; by default all.
    markers_key
        Key of the markers in `uns`.
    table_key
        Table with the markers; needed only if there are several.
    n_top
        Maximum number of markers of a group.
    background
        Genes that could have been markers; by default all that were tested. A model predicts some thousand genes chosen
        for their variability; with the whole genome as background, any marker would seem to be enriched in cancer gene
        sets.
    organism
        Organism of the Enrichr library: ``"human"``, ``"mouse"``, ``"fly"``, ``"yeast"``, ``"worm"`` or ``"fish"``.
    key_added
        Key of the result.
    overwrite
        Replace results of an earlier call.

    Returns
    -------
    None. Adds to `uns` of the table:

    ``uns["enrichment"]``
        DataFrame with a row for each group and gene set that share a gene, by group and then by ``p``: ``group``
        (categorical), ``term``, ``overlap`` (text such as ``"3/50"``), ``n_overlap``, ``n_set`` (genes of the set in
        the background), ``odds_ratio`` (0.5 added to all counts), ``p``, ``p_adj`` (Benjamini-Hochberg over all
        sets with a gene in the background; gseapy alone would skip those without a marker), ``combined_score``
        (−ln p × odds ratio), ``genes`` (sorted, separated by ``;``).
    ``uns["deepspot_enrichment"]``
        Parameters of this call.

    Raises
    ------
    KeyError
        If there are no markers, or no such table or group.
    FileNotFoundError
        If the GMT file does not exist.
    ConnectionError
        If a library is not in the cache and cannot be downloaded.
    ValueError
        If no group has a significant marker, genes and gene sets have no name in common, Enrichr has no such library,
        several tables have markers, or entries exist already.

    References
    ----------
    DeepSpot, section 4.4.3. Fang et al., "GSEApy", Bioinformatics 2023. Kuleshov et al., "Enrichr", Nucleic Acids
    Research 2016.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=5, n_cols=6)["P1_S1"]
    >>> table = sdata.tables["table"]
    >>> table.X, table.uns["log1p"] = table.layers["expected"], {}  # or raw counts after scanpy's log1p
    >>> table.obs["class"] = ["tumor" if share > 0.5 else "other" for share in table.obsm["composition"][:, 0]]
    >>> ds.tl.markers(sdata, "class", table_key="table")
    >>> programs = {program: list(genes) for program, genes in table.var_names.groupby(table.var["program"]).items()}
    >>> ds.tl.enrich(sdata, programs, groups="tumor")
    >>> table.uns["enrichment"]["term"].iloc[0]
    'tumor'
    """
    check_count(n_top, "n_top")
    table_key, results = find_result(
        sdata, table_key, markers_key, "ds.tl.markers(sdata, groupby)", columns=MARKER_COLUMNS
    )
    added = [key_added, f"deepspot_{key_added}"]
    check_entries(sdata, table_key, "uns", added, overwrite=overwrite, argument="key_added")
    groups = keys_in(groups, results["group"].cat.categories.astype(str), "groups of the markers")
    significant = results[results["significant"]]
    top = {name: list(significant.loc[significant["group"] == name, "gene"][: int(n_top)]) for name in groups}
    without = [name for name in groups if not top[name]]
    groups = [name for name in groups if top[name]]
    if not groups:
        raise InputError(
            f"No group of {without} has a significant marker, so no gene set can be tested. See "
            f"sdata.tables[{table_key!r}].uns[{markers_key!r}]. `ds.tl.pathways` scores gene sets without markers."
        )
    genes = set(results["gene"]) if background is None else {str(gene) for gene in background}
    sets, source = read_gene_sets(gene_sets, organism)
    sets = {term: inside for term, all_genes in sets.items() if (inside := sorted(genes & set(all_genes)))}
    if not sets:
        raise InputError(
            f"The gene sets ({source}) share no gene with the {len(genes):,} genes of the background, such as "
            f"{sorted(genes)[:3]}. Check the species and the identifiers."
        )
    hits = [_over_represented(top[name], sets, genes).assign(group=name) for name in groups]
    # Without empty parts, which would change the dtype of the numbers to object.
    frame = pd.concat([part for part in hits if len(part)] or hits[:1], ignore_index=True).astype(TYPES)
    frame["group"] = pd.Categorical(frame["group"], groups)
    frame = frame[COLUMNS].sort_values(["group", "p", "term"], ignore_index=True)
    parameters = {
        "gene_sets": source,
        "n_sets": len(sets),
        "n_background": len(genes),
        "n_top": int(n_top),
        "markers_key": markers_key,
        # Names of users are no keys, because a key cannot be written with a slash.
        "groups": groups,
        "n_markers": [len(top[name]) for name in groups],
        "gseapy": version("gseapy"),
    }
    add_entries(sdata, table_key, "uns", dict(zip(added, (frame, parameters), strict=True)), overwrite=overwrite)
    n_significant = frame[frame["p_adj"] < 0.05].groupby("group", observed=False).size()
    logger.info(
        f"Compared markers of {len(groups)} groups with {len(sets):,} gene sets ({source}) over {len(genes):,} genes; "
        f"p_adj < 0.05: {', '.join(f'{name} {n}' for name, n in n_significant.items())}."
        + (f" Without a significant marker: {without}." if without else "")
    )


def _over_represented(markers: list[str], sets: dict[str, list[str]], background: set[str]) -> pd.DataFrame:
    """Test every gene set that contains a marker; the sets are subsets of the background."""
    import gseapy
    from scipy.stats import false_discovery_control

    if not background & set(markers) or not any(set(markers) & set(genes) for genes in sets.values()):
        return pd.DataFrame(columns=COLUMNS)
    with np.errstate(divide="ignore"):
        result = gseapy.enrich(markers, sets, background=sorted(background), outdir=None, no_plot=True)
    frame = result.results[list(NAMES)].rename(columns=NAMES)
    frame[["n_overlap", "n_set"]] = frame["overlap"].str.split("/", expand=True).astype(int).to_numpy()
    # gseapy returns them in the order of a set, which differs between runs.
    frame["genes"] = [";".join(sorted(genes.split(";"))) for genes in frame["genes"]]
    # Sets without a marker count as tested, although gseapy skips them.
    p = np.concatenate([frame["p"], np.ones(len(sets) - len(frame))])
    return frame.assign(p_adj=false_discovery_control(np.clip(p, 0, 1))[: len(frame)])
