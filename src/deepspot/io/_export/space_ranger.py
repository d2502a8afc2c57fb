"""Matrices in the formats of 10x Genomics, which hold counts, and the folder of Space Ranger."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.keys import UNS
from deepspot._core.logging import logger
from deepspot._sdata.tables import array_positions, is_deepspot_table
from deepspot._sdata.zarr_store import check_fits_in_memory
from deepspot._stats.normalize import check_counts, known_scale
from deepspot.errors import InputError
from deepspot.io._space_ranger import COLUMNS, COUNTS, FACTORS

from .contents import Contents
from .tabular import BARCODE, row_facts, write_genes

PROVENANCE, OBS, GENES = "deepspot.json", "deepspot_obs.csv", "deepspot_genes.csv"
"""Files that Space Ranger does not have. An exported folder is recognized by the first."""

RATE, GENE = "rate", "Gene Expression"


class Matrix(NamedTuple):
    """What is written: (n, genes) counts in int32 or rates in float32, names of rows and genes, and provenance."""

    values: csr_matrix
    barcodes: list[str]
    genes: list[str]
    ids: list[str]
    provenance: dict[str, Any]


def make_matrix(contents: Contents) -> Matrix:
    """Return the measured counts, or the rates of a prediction or correction; raise if the table has neither."""
    where = f"Layer {contents.layer!r}" if contents.layer is not None else "X"
    where = f"{where} of table {contents.table_key!r}"
    rows = slice(0, len(contents.matched[0]))
    check_fits_in_memory((rows.stop, len(contents.genes)), "Choose fewer genes with `genes=`")
    if is_deepspot_table(contents.table):
        values, genes = _rates(contents, where)
        provenance = contents.provenance() | {"scale": f"rates, {contents.scale.removeprefix('log1p of ')}"}
        logger.warning(
            "The values are %s %s. These are rates and not counts: do not normalize them again.",
            contents.kind,
            provenance["scale"].removeprefix("rates, "),
        )
    else:
        values, genes = check_counts(contents.matrix, where)[contents.matched[0]][:, contents.columns], contents.genes
        values = values.astype(np.int32)
        provenance = contents.provenance() | {"scale": "counts"}
    names = [str(name) for name in contents.names]
    if all(name.isdecimal() for name in names):  # readers take them for numbers, and do not find them again
        names = [f"{contents.noun.one}_{name}" for name in names]
    var = contents.var.loc[genes]
    ids = list(var["gene_ids"].astype(str)) if "gene_ids" in var else genes
    for name in (*names, *genes, *ids):
        if not (name.isascii() and name.isprintable()):
            raise InputError(
                f"Name {name!r} is not in ASCII or has a control character: readers of 10x Genomics fail for it. "
                "Rename it first."
            )
    return Matrix(values, names, genes, ids, provenance)


def _rates(contents: Contents, where: str) -> tuple[csr_matrix, list[str]]:
    """Return rates (n, genes) of the genes that have a value in all rows, and these genes."""
    layers, layer = contents.table.layers, contents.layer
    if layer is None and RATE in layers:
        layer = RATE  # of a correction: the mean of a rate is not the exponential of the mean of its logarithm
    rows = slice(0, len(contents.matched[0]))
    if layer == RATE:
        values = np.asarray(layers[RATE][contents.matched[0]][:, contents.columns])
    elif known_scale(contents.table.uns[UNS].get("scale")) is None:
        raise InputError(
            f"{where} is on the scale {contents.scale!r}, from which rates cannot be computed. Export it as .h5ad, "
            ".csv or .parquet."
        )
    else:
        values = np.expm1(contents.values(rows))
    known = np.isfinite(values).all(axis=0)
    if not known.any() or (values[:, known] < 0).any():
        raise InputError(f"{where} has values that are missing or negative, which are no rates. Choose another layer.")
    if not known.all():
        logger.info("%d genes without a value in some rows are left out.", int((~known).sum()))
    return csr_matrix(values[:, known].astype(np.float32)), [g for g, k in zip(contents.genes, known, strict=True) if k]


def write_h5(matrix: Matrix, path: Path, library_id: str) -> None:
    """Write the feature-barcode matrix in HDF5. Readers take every group for a genome, so there is only one."""
    import h5py

    def text(values: Sequence[str]) -> np.ndarray:
        return np.array([value.encode("ascii") for value in values], dtype=f"S{max(map(len, values)) or 1}")

    n, genes = matrix.values.shape
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array([library_id], dtype=h5py.string_dtype("utf-8"))
        file.attrs["software_version"] = matrix.provenance["written_by"]
        file.attrs["chemistry_description"] = f"{matrix.provenance['values']} {matrix.provenance['scale']}"
        file.attrs["deepspot"] = json.dumps(matrix.provenance)
        group = file.create_group("matrix")
        group["barcodes"] = text(matrix.barcodes)
        # Genes × barcodes by column are barcodes × genes by row.
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix.values, name), compression="gzip")
        group["shape"] = np.array([genes, n], dtype=np.int32)
        features = group.create_group("features")
        features["id"], features["name"] = text(matrix.ids), text(matrix.genes)
        features["feature_type"], features["genome"] = text([GENE] * genes), text([""] * genes)
        features["_all_tag_keys"] = text(["genome"])


def write_folder(contents: Contents, matrix: Matrix, folder: Path) -> None:
    """Write a folder that readers of Space Ranger open: both matrices, positions, scale factors and images."""
    folder.mkdir()
    write_h5(matrix, folder / COUNTS, contents.image_key)
    _write_mtx(matrix, folder / COUNTS.removesuffix(".h5"))
    (folder / "spatial").mkdir()
    _positions(contents, matrix.barcodes).to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    images = contents.images()
    (folder / "spatial" / FACTORS).write_text(json.dumps(contents.scale_factors(images)))
    from PIL import Image

    for name, (pixels, _) in images.items():
        Image.fromarray(pixels).save(folder / "spatial" / f"tissue_{name}_image.png")
    facts = row_facts(contents).assign(**{BARCODE: matrix.barcodes})
    facts.to_csv(folder / OBS, index=False, encoding="utf-8")
    write_genes(contents, folder / GENES, scale=matrix.provenance["scale"])
    (folder / PROVENANCE).write_text(json.dumps(matrix.provenance, ensure_ascii=False, indent=2), encoding="utf-8")


def _write_mtx(matrix: Matrix, folder: Path) -> None:
    from scipy.io import mmwrite

    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        field = "integer" if matrix.values.dtype.kind == "i" else "real"
        mmwrite(file, matrix.values.T.tocoo(), field=field, precision=7, comment=json.dumps(matrix.provenance))
    _write_lines(folder / "barcodes.tsv.gz", matrix.barcodes)
    _write_lines(
        folder / "features.tsv.gz", [f"{i}\t{gene}\t{GENE}" for i, gene in zip(matrix.ids, matrix.genes, strict=True)]
    )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with gzip.open(path, "wt", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _positions(contents: Contents, barcodes: list[str]) -> pd.DataFrame:
    """Return the positions as Space Ranger writes them; the array is 0 for shapes that are in none."""
    array = array_positions(contents.sdata, contents.shapes_key)
    array = np.zeros((len(barcodes), 2)) if array is None else array[contents.matched[1]]
    x, y = contents.centers.T.round(2)
    values = (barcodes, 1, *array.T.astype(int), y, x)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
