"""CSV and Parquet: a row for each spot, bin or cell, and a second file with a row for each gene."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from deepspot.errors import InputError, InputTypeError

from .contents import Contents, as_json

BARCODE = "barcode"


def genes_path(path: Path) -> Path:
    """Return the path of the file with the genes: ``slide_genes.csv`` of ``slide.csv``."""
    return path.with_name(f"{path.stem}_genes{path.suffix}")


def check_columns(contents: Contents) -> None:
    """Raise if columns of `obs` and genes have the same name: no reader could tell them apart."""
    names = list(row_facts(contents).columns)
    taken = {*contents.genes, *(name for name in names if names.count(name) > 1)}
    if both := [name for name in names if name in taken]:
        raise InputError(
            f"Column {both[0]!r} of `obs` of table {contents.table_key!r} has the name of a gene or of a column that "
            "is added. Rename it first."
        )


def check_types(contents: Contents) -> None:
    """Raise if a column of `obs` or `var` has values that have no common type in Parquet."""
    import pyarrow as pa

    for slot, frame in (("obs", contents.obs), ("var", contents.var)):
        for name, column in frame.items():
            try:
                pa.Array.from_pandas(column)
            except (pa.ArrowException, OverflowError) as error:
                raise InputTypeError(
                    f"{slot}[{name!r}] of table {contents.table_key!r} has values that Parquet cannot hold ({error}). "
                    "Convert the column to text or numbers, such as with `.astype(str)`, or remove it."
                ) from error


def write_csv(contents: Contents, path: Path) -> None:
    """Write a CSV in blocks of rows."""
    for block, frame in enumerate(_frames(contents)):
        frame.to_csv(path, mode="a" if block else "w", header=not block, index=False, encoding="utf-8")


def write_parquet(contents: Contents, path: Path) -> None:
    """Write a Parquet file with a group of rows for each block, and the provenance in its metadata."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    # The type of a column is that of all rows: those of one block can all be missing.
    fields = list(pa.Schema.from_pandas(row_facts(contents), preserve_index=False))
    writer = None
    try:
        for frame in _frames(contents):
            part = pa.Table.from_pandas(frame, preserve_index=False)
            if writer is None:
                facts = {"deepspot": as_json(contents.provenance())}
                metadata = {**(part.schema.metadata or {}), **facts}
                schema = pa.schema([*fields, *list(part.schema)[len(fields) :]], metadata=metadata)
                writer = ParquetWriter(path, schema)
            writer.write_table(part.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def write_genes(contents: Contents, path: Path, *, scale: str) -> None:
    """Write the facts of genes, with what their values are."""
    facts = {"gene": contents.genes, "values": contents.kind, "scale": scale}
    var = contents.var.reset_index(drop=True)
    frame = pd.concat([pd.DataFrame(facts), var[[name for name in var if name not in facts]]], axis=1)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, encoding="utf-8")


def row_facts(contents: Contents) -> pd.DataFrame:
    """Return names, positions and `obs` of all rows, without the name of the shapes, which is always the same."""
    rows = pd.DataFrame({BARCODE: contents.names.astype(str)})
    rows[["x_px", "y_px"]] = contents.centers
    if contents.centers_um is not None:
        rows[["x_um", "y_um"]] = contents.centers_um
    obs = contents.obs.drop(columns=contents.table.uns["spatialdata_attrs"]["region_key"])
    return pd.concat([rows, obs.reset_index(drop=True)], axis=1)


def _frames(contents: Contents) -> Iterator[pd.DataFrame]:
    """Yield the complete rows of each block."""
    facts = row_facts(contents)
    for rows in contents.blocks():
        values = pd.DataFrame(contents.values(rows), index=facts.index[rows], columns=contents.genes)
        yield pd.concat([facts.iloc[rows], values], axis=1)
