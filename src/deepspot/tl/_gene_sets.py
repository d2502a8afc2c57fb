"""Gene sets from a dict, a GMT file or a library of Enrichr, all as a dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepspot import _keys

from ._fetch import fetch

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
        _keys.sanitize(f"enrichr_{organism}_{name}.gmt"),
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
