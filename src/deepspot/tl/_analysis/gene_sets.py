"""Gene sets and pathway networks: given, read from a file, or downloaded once and cached."""

from __future__ import annotations

import csv
import gzip
import socket
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.request import getproxies

import numpy as np
import pandas as pd

from deepspot._core.keys import key_in, valid_name
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_path
from deepspot.errors import InputError, InputTypeError

GeneSets = Mapping[str, Sequence[str]]
GZIP = b"\x1f\x8b"
LIBRARY = "Cancer_Cell_Line_Encyclopedia"
NETWORK = ["source", "target", "weight"]


def read_gene_sets(gene_sets: GeneSets | str | Path | None, organism: str) -> tuple[dict[str, list[str]], str]:
    """Return gene sets by name, and a short name of their source."""
    if isinstance(gene_sets, Mapping):
        sets: dict[str, list[str]] = {}
        for term, genes in gene_sets.items():
            if isinstance(genes, str | bytes) or not isinstance(genes, Iterable):
                raise InputTypeError(
                    f"The genes of {term!r} in `gene_sets` must be a list of names, got {genes!r}. Put it into a list."
                )
            if str(term) in sets:
                raise InputError(f"`gene_sets` has several keys that are {str(term)!r} as text. Rename one.")
            sets[str(term)] = [str(gene) for gene in genes]
        return sets, "dict"
    if not isinstance(gene_sets, str | Path | None):
        raise InputTypeError(
            "`gene_sets` must be a dict from names to genes, the path of a GMT file or the name of an Enrichr library, "
            f"got {type(gene_sets).__name__}."
        )
    source = LIBRARY if gene_sets is None else str(gene_sets)
    path = check_path(source, "gene_sets")
    if isinstance(gene_sets, Path) or path.is_file() or source.lower().endswith((".gmt", ".gmt.gz")):
        source = path.name
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
        content = path.read_bytes()
        lines = (gzip.decompress(content) if content.startswith(GZIP) else content).decode("utf-8-sig").splitlines()
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{str(path)!r} is no GMT file, which is text in UTF-8: {error}.") from error
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
        path = check_path(net, "net")
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r}.")
        try:
            table, source = pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig"), path.name
        except (ValueError, csv.Error, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise InputError(
                f"{str(path)!r} is no table of text in UTF-8 with the columns source, target and weight: {error}."
            ) from error
    elif isinstance(net, pd.DataFrame):
        table, source = net, "DataFrame"
    else:
        raise InputTypeError(f"`net` must be a DataFrame or the path of a CSV file, got {type(net).__name__}.")
    for column in NETWORK:
        key_in(column, table.columns, f"columns of the network ({source})")
    table = table[NETWORK].dropna()
    if len(table.columns) > len(NETWORK):
        raise InputError(f"The network ({source}) has several columns of one name: {list(table.columns)}.")
    weight = pd.to_numeric(table["weight"], errors="coerce").astype(float)
    if not np.isfinite(weight).all():
        wrong = table["weight"][~np.isfinite(weight)].tolist()[0]
        raise InputError(f"Weights of the network ({source}) must be numbers, got {wrong!r}.")
    table = table.assign(source=table["source"].astype(str), target=table["target"].astype(str), weight=weight)
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

    if getproxies().keys().isdisjoint({"https", "all"}):
        socket.getaddrinfo("maayanlab.cloud", 443)  # without network gseapy tries for half a minute
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
