"""Gene sets and pathway networks: given, read from a file, or downloaded once and cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from deepspot._core.keys import key_in, valid_name
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot.errors import InputError, InputTypeError

GeneSets = Mapping[str, Sequence[str]]
LIBRARY = "Cancer_Cell_Line_Encyclopedia"
NETWORK = ["source", "target", "weight"]


def read_gene_sets(gene_sets: GeneSets | str | Path | None, organism: str) -> tuple[dict[str, list[str]], str]:
    """Return gene sets by name, and a short name of their source."""
    if isinstance(gene_sets, Mapping):
        texts = [term for term, genes in gene_sets.items() if isinstance(genes, str)]
        if texts:
            raise InputTypeError(f"The genes of {texts[0]!r} must be a list of names, got text. Put it into a list.")
        return {str(term): [str(gene) for gene in genes] for term, genes in gene_sets.items()}, "dict"
    if not isinstance(gene_sets, str | Path | None):
        raise InputTypeError(
            "`gene_sets` must be a dict from names to genes, the path of a GMT file or the name of an Enrichr library, "
            f"got {type(gene_sets).__name__}."
        )
    source = LIBRARY if gene_sets is None else str(gene_sets)
    if source.lower().endswith(".gmt"):
        path, source = Path(source), Path(source).name
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r}.")
    else:
        path = _fetch(
            f"enrichr_{organism}_{source}.gmt",
            lambda: _download_library(source, organism),
            what=f"Library {source!r} of Enrichr",
            hint="Offline, pass a dict or a GMT file as `gene_sets=`, for example from "
            "https://maayanlab.cloud/Enrichr/#libraries or https://www.gsea-msigdb.org.",
        )
    sets = _read_gmt(path)
    if not sets:
        raise InputError(
            f"{str(path)!r} holds no gene set. Each line must have a name, a description and genes, separated by tabs."
        )
    return sets, source


def _read_gmt(path: Path) -> dict[str, list[str]]:
    """Read a GMT file. The parser of gseapy keeps only the last of several sets of one name."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not text in UTF-8, so it is no GMT file: {error}.") from error
    sets: dict[str, list[str]] = {}
    for line in lines:
        entries = [entry.strip() for entry in line.split("\t")]
        term, genes = entries[0], [gene for gene in entries[2:] if gene]
        if not genes:
            continue
        if term in sets:
            raise InputError(
                f"{str(path)!r} holds several gene sets of the name {term!r}. Give each its own name, or join them."
            )
        sets[term] = genes
    return sets


def read_network(net: pd.DataFrame | str | Path | None, organism: str, top: int) -> tuple[pd.DataFrame, str]:
    """Return a network with a row for each pathway and gene, and a short name of its source."""
    if net is None:
        net = _fetch(
            f"progeny_{organism}_top{top}.csv",
            lambda: _download_progeny(organism, top),
            what=f"PROGENy ({organism})",
            hint="Offline, pass a table with the columns source, target and weight as `net=`, for example from "
            "https://github.com/saezlab/progeny.",
        )
    if isinstance(net, str | Path):
        path = Path(net)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r}.")
        table, source = pd.read_csv(path, sep="\t" if path.suffix in (".tsv", ".txt") else ","), path.name
    elif isinstance(net, pd.DataFrame):
        table, source = net, "DataFrame"
    else:
        raise InputTypeError(f"`net` must be a DataFrame or the path of a CSV file, got {type(net).__name__}.")
    for column in NETWORK:
        key_in(column, table.columns, f"columns of the network ({source})")
    table = table[NETWORK].dropna()
    twice = table[table.duplicated(["source", "target"])]
    if len(twice):
        pathway, gene, _ = twice.iloc[0]
        raise InputError(
            f"The network ({source}) repeats {len(twice):,} pairs of pathway and gene, first {pathway!r} "
            f"and {gene!r}. Call `drop_duplicates(['source', 'target'])` on it."
        )
    return table, source


def _download_library(name: str, organism: str) -> str:
    import gseapy

    try:
        # By default gseapy leaves out sets of more than 2,000 genes without a warning.
        sets = gseapy.get_library(name, organism=organism, min_size=0, max_size=10**9)
    except ValueError as error:
        raise InputError(
            f"Enrichr has no library {name!r} for {organism}. `gseapy.get_library_name({organism!r})` lists them; a "
            "GMT file must end in `.gmt`."
        ) from error
    return "".join("\t".join([term, name, *genes]) + "\n" for term, genes in sets.items())


def _download_progeny(organism: str, top: int) -> str:
    import decoupler as dc

    return dc.op.progeny(organism=organism, top=top)[NETWORK].to_csv(index=False)


def _fetch(name: str, download: Callable[[], str], *, what: str, hint: str) -> Path:
    """Return the path of a cached file, downloaded if missing; `hint` is the advice if this fails."""
    path = settings.cache("genesets", valid_name(name))
    if path.is_file():
        return path
    try:
        text = download()
    except ValueError:
        raise
    except Exception as error:  # the libraries also raise bare exceptions
        raise ConnectionError(
            f"{what} is not in the cache and could not be downloaded ({type(error).__name__}). {hint} Or download it "
            f"on another machine and copy it to {str(path)!r}."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")  # an interrupted download must not look complete
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    logger.info("Downloaded %s to %s.", what, path)
    return path
