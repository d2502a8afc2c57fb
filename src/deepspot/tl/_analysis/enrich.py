"""Gene sets from a dict, a GMT file or a library of Enrichr, all as a dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive, key_in
from deepspot._sdata.tables import find_result
from deepspot._sdata.write import add_entries, check_entries

from .download import fetch

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
COLUMNS = ("group", "term", "overlap", "n_overlap", "n_set", "odds_ratio", "p", "p_adj", "combined_score", "genes")


def enrich(
    sdata: SpatialData,
    gene_sets: GeneSets | str | Path | None = None,
    *,
    group: str | Sequence[str] | None = None,
    markers_key: str = "markers",
    table_key: str | None = None,
    n_top: int = 100,
    background: Sequence[str] | None = None,
    organism: str = "human",
    key_added: str = "enrichment",
    overwrite: bool = False,
) -> None:
    """Find gene sets that the markers of a group belong to more often than by chance.

    The significant markers with the highest log fold changes are compared with every gene set by gseapy's
    hypergeometric test. It runs on this machine: no gene leaves it. A library of Enrichr is downloaded once and kept in
    the cache.

    Parameters
    ----------
    sdata
        Object with markers, see :func:`deepspot.tl.markers`.
    gene_sets
        Names and genes: a dict, the path of a GMT file, or the name of a library of Enrichr. By default the paper's
        library, ``"Cancer_Cell_Line_Encyclopedia"``.
    group
        Group or groups to look at, by default all.
    markers_key
        Where the markers are in `uns`.
    table_key
        Table with the markers; needed only if there are several.
    n_top
        Most markers to take of a group.
    background
        Genes that could have been markers; by default all that were tested. A model knows some thousand genes, chosen
        for their variability: with all genes of the genome behind them, any marker would look like a cancer gene.
    organism
        Whose library to download: ``"human"``, ``"mouse"``, ``"fly"``, ``"yeast"``, ``"worm"`` or ``"fish"``.
    key_added
        Name of the data frame.
    overwrite
        Replace results of an earlier call.

    Returns
    -------
    None. Adds to `uns` of the table:

    ``uns["enrichment"]``
        DataFrame with a row for each group and gene set that share a gene, by group and then by ``p``: ``group``
        (categorical), ``term``, ``overlap`` (text such as ``"3/50"``), ``n_overlap``, ``n_set`` (genes of the set in
        the background), ``odds_ratio`` (0.5 added to all counts), ``p``, ``p_adj`` (Benjamini-Hochberg over all
        sets with a gene in the background; gseapy itself passes over those without a marker), ``combined_score``
        (−ln p × odds ratio), ``genes`` (sorted, with ``;`` between them).
    ``uns["deepspot_enrichment"]``
        Parameters of this call.

    Raises
    ------
    KeyError
        If there are no markers, or no such table or group.
    FileNotFoundError
        If there is no such GMT file.
    ConnectionError
        If a library is not in the cache and cannot be downloaded.
    ValueError
        If no group has a significant marker, genes and gene sets have no name in common, there is no such library,
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
    >>> table.obs["class"] = ["tumour" if share > 0.5 else "other" for share in table.obsm["composition"][:, 0]]
    >>> ds.tl.markers(sdata, "class", table_key="table")
    >>> programs = {program: list(genes) for program, genes in table.var_names.groupby(table.var["program"]).items()}
    >>> ds.tl.enrich(sdata, programs, group="tumour")
    >>> table.uns["enrichment"]["term"].iloc[0]
    'tumour'
    """
    check_positive(n_top, "n_top")
    table_key, found = find_result(sdata, table_key, markers_key, "ds.tl.markers(sdata, groupby)")
    added = [key_added, f"deepspot_{key_added}"]
    check_entries(sdata, table_key, "uns", added, overwrite=overwrite, argument="key_added")
    known = [str(name) for name in found["group"].cat.categories]
    wanted = known if group is None else [group] if isinstance(group, str) else list(group)
    groups = [key_in(name, known, "groups of the markers") for name in dict.fromkeys(wanted)]
    significant = found[found["significant"]].groupby("group", observed=True)
    top = {name: list(rows["gene"])[: int(n_top)] for name, rows in significant}
    groups_with = [name for name in groups if name in top]
    if not groups_with:
        raise ValueError(
            f"No group of {groups} has a significant marker, so there is nothing to look up. Look at "
            f"sdata.tables[{table_key!r}].uns[{markers_key!r}], or call `ds.tl.markers` with another `alpha=`."
        )
    genes = set(found["gene"]) if background is None else {str(gene) for gene in background}
    sets, source = gene_sets_of(gene_sets, organism)
    sets = {term: inside for term, all_genes in sets.items() if (inside := sorted(genes & set(all_genes)))}
    if not sets:
        raise ValueError(
            f"The gene sets ({source}) share no gene with the {len(genes):,} genes of the background, which are like "
            f"{sorted(genes)[:3]}: another species, or other identifiers?"
        )
    tested = [_test(top[name], sets, genes).assign(group=name) for name in groups_with]
    # An empty part would turn the numbers of the others into objects, which are written as text.
    frame = pd.concat([part for part in tested if len(part)] or tested[:1], ignore_index=True).astype(TYPES)
    frame["group"] = pd.Categorical(frame["group"], groups_with)
    frame = frame[list(COLUMNS)].sort_values(["group", "p", "term"], ignore_index=True)
    parameters = {
        "gene_sets": source, "n_sets": len(sets), "n_background": len(genes), "n_top": int(n_top),
        "markers_key": markers_key, "n_markers": {name: len(top[name]) for name in groups_with},
        "gseapy": version("gseapy"),
    }  # fmt: skip
    add_entries(sdata, table_key, "uns", dict(zip(added, (frame, parameters), strict=True)), overwrite=overwrite)
    without = [name for name in groups if name not in top]
    logger.info(
        "Compared markers of %s with %s gene sets (%s) over %s genes; p_adj < 0.05: %s.%s",
        f"{len(groups_with)} groups", f"{len(sets):,}", source, f"{len(genes):,}",
        ", ".join(f"{name} {(frame.loc[frame['group'] == name, 'p_adj'] < 0.05).sum()}" for name in groups_with),
        f" Without a significant marker: {without}." if without else "",
    )  # fmt: skip


def _test(markers: list[str], sets: dict[str, list[str]], background: set[str]) -> pd.DataFrame:
    """Over-representation of some genes in gene sets that lie within the background."""
    import gseapy
    from scipy.stats import false_discovery_control

    if background.isdisjoint(markers) or not any(set(markers) & set(genes) for genes in sets.values()):
        return pd.DataFrame(columns=[column for column in COLUMNS if column != "group"])
    with np.errstate(divide="ignore"):
        result = gseapy.enrich(markers, sets, background=sorted(background), outdir=None, no_plot=True)
    frame = result.results[list(NAMES)].rename(columns=NAMES)
    counts = frame["overlap"].str.split("/", expand=True).astype(int)
    frame["n_overlap"], frame["n_set"] = counts[0], counts[1]
    # gseapy gives them in the order of a set, which differs between two runs.
    frame["genes"] = [";".join(sorted(genes.split(";"))) for genes in frame["genes"]]
    p = np.concatenate([frame["p"], np.ones(len(sets) - len(frame))])
    return frame.assign(p_adj=false_discovery_control(np.clip(p, 0, 1))[: len(frame)])


LIBRARY = "Cancer_Cell_Line_Encyclopedia"
GeneSets = Mapping[str, Sequence[str]]


def gene_sets_of(gene_sets: GeneSets | str | Path | None, organism: str) -> tuple[dict[str, list[str]], str]:
    """Gene sets by name, and where they come from in a few words."""
    if isinstance(gene_sets, Mapping):
        return {str(term): [str(gene) for gene in genes] for term, genes in gene_sets.items()}, "dict"
    if not isinstance(gene_sets, str | Path | None):
        raise TypeError(
            "`gene_sets` must be a dict from names to genes, the path of a GMT file or the name of an Enrichr library, "
            f"got {type(gene_sets).__name__}."
        )
    name = LIBRARY if gene_sets is None else str(gene_sets)
    if name.lower().endswith(".gmt"):
        if not Path(name).is_file():
            raise FileNotFoundError(f"There is no file {name!r}.")
        return _read(Path(name)), Path(name).name
    path = fetch(
        valid_name(f"enrichr_{organism}_{name}.gmt"),
        lambda: _download(name, organism),
        f"Library {name!r} of Enrichr",
        "Offline, pass gene sets as `gene_sets=`: a dict, or a GMT file, as https://maayanlab.cloud/Enrichr/#libraries "
        "and https://www.gsea-msigdb.org offer.",
    )
    return _read(path), name


def _read(path: Path) -> dict[str, list[str]]:
    """Read a GMT file: name, description, genes, with tabs between them."""
    from gseapy.parser import read_gmt

    found = read_gmt(str(path))
    if not found:
        raise ValueError(
            f"{str(path)!r} holds no gene set. A line is a name, a description and genes, with tabs between them."
        )
    return {term: [gene for gene in genes if gene] for term, genes in found.items()}


def _download(name: str, organism: str) -> str:
    import gseapy

    try:
        # By default sets of more than 2,000 genes would be left out without a word.
        found = gseapy.get_library(name, organism=organism, min_size=0, max_size=10**9)
    except ValueError as error:
        raise ValueError(
            f"Enrichr has no library {name!r} for {organism}. `gseapy.get_library_name({organism!r})` lists them; a "
            "GMT file must end in `.gmt`."
        ) from error
    return "".join("\t".join([term, name, *genes]) + "\n" for term, genes in found.items())
