"""Zarr stores on disk: written block by block, and read lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.atomic import check_outside_stores
from deepspot._core.hashing import hash_file
from deepspot._core.keys import PREDICTION, UNS
from deepspot._core.logging import without_noise
from deepspot.errors import InputError

from .write import check_memory

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def check_new_path(out: Path, *, overwrite: bool = False) -> None:
    """Raise unless a store can be created at this path."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(out.parent)!r} to write {out.name!r} to. Create it first.")
    check_outside_stores(out, replaced=True)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists. Pass `overwrite=True`, or another name.")


def check_replaceable(out: Path, sdata: SpatialData) -> None:
    """Raise unless `out` does not exist, or contains a streamed prediction and nothing else."""
    if not out.exists():
        return
    own, path = None if sdata.path is None else Path(sdata.path).resolve(), out.resolve()
    if own is not None and (path == own or path in own.parents or own in path.parents):
        raise InputError(f"{str(out)!r} is where this slide itself is stored. Choose another `out`.")
    if not _is_prediction(out):
        raise InputError(
            f"{str(out)!r} is not a prediction that was streamed to disk, or contains other data. It is not replaced: "
            "choose another `out`, or delete it yourself."
        )


def _is_prediction(path: Path) -> bool:
    import zarr
    from anndata.io import read_elem

    try:
        root: Any = zarr.open_group(path, mode="r", use_consolidated=False)
        tables = list(root["tables"]) if set(root) == {"shapes", "tables"} else []
        return len(tables) == 1 and read_elem(root[f"tables/{tables[0]}/uns/{UNS}/kind"]) == PREDICTION
    except (OSError, KeyError, ValueError, TypeError):  # not a store, a different or a damaged one
        return False


def write_table_in_blocks(sdata: SpatialData, key: str, blocks: Iterable[np.ndarray], path: Path) -> None:
    """Write a SpatialData to a new store at `path`, with `X` of the table `key` in blocks from a generator.

    `blocks` are rows (b, genes) of `X` in float32; all but the last have the same length. The table has no `X`, and
    the SpatialData has no path.
    """
    import zarr
    from spatialdata.models import TableModel
    from zarr.codecs import BloscCodec, Crc32cCodec

    table = sdata.tables[key]
    n, genes = table.shape
    uns = dict(table.uns)
    table.uns = {name: value for name, value in uns.items() if name == TableModel.ATTRS_KEY}
    try:
        with without_noise():
            sdata.write(path)
    finally:
        table.uns = uns
    group: Any = zarr.open_group(path, mode="r+", use_consolidated=False)[f"tables/{key}"]
    _write_small(path, group["uns"], {name: value for name, value in uns.items() if name != TableModel.ATTRS_KEY})
    if "X" in group:
        del group["X"]
    array: Any = None
    at = 0
    for block in blocks:
        if array is None:
            width = min(512, genes)  # a few genes can be read without the others
            array = group.create_array(
                "X",
                shape=(n, genes),
                chunks=(min(len(block), n), width),
                shards=(min(len(block), n), -(-genes // width) * width),  # one file for each block
                dtype=np.float32,
                fill_value=np.nan,  # of lost chunks, which would be read as zeros
                # Bit shuffling compresses the trailing zeros of rounded numbers. A changed chunk cannot be read.
                compressors=(BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()),
                attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
            )
        array[at : at + len(block)] = block
        at += len(block)
    if at != n:
        raise InputError(f"The blocks hold {at} rows, the table {n}.")
    _note_files(path, key, group)
    sdata.write_consolidated_metadata()


def _write_small(path: Path, group: Any, entries: Mapping[str, Any]) -> None:
    """Write small entries of a group in a store at `path`: first to memory, as zarr takes many steps for each array."""
    import zarr
    from anndata.io import write_elem

    files: dict[str, Any] = {}
    memory = zarr.open_group(zarr.storage.MemoryStore(files), zarr_format=group.metadata.zarr_format)
    with without_noise():
        for name, value in entries.items():
            write_elem(memory, name, value)
    for name, content in files.items():
        if "/" in name:  # not the metadata of the group itself
            file = path / group.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.to_bytes())


FILES = "deepspot_files"
"""Attribute of a table in a store: hashes of its files and those of its spots, as zarr reads lost chunks as zeros."""


def _note_files(path: Path, key: str, group: Any) -> None:
    """Store hashes of all files, except chunks of `X`, which have checksums, and those that hold the hashes."""
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    without = {"zarr.json", f"tables/{key}/zarr.json"}
    group.attrs[FILES] = {
        name: hash_file(file)
        for name, file in sorted(files.items())
        if name not in without and not name.startswith(f"tables/{key}/X/c/")
    }


def check_files(path: Path, group: Any) -> None:
    """Raise if a table in a store, or its spots, lost or changed files."""
    for name, known in group.attrs.get(FILES, {}).items():
        file = path / name
        if not file.is_file() or hash_file(file) != known:
            raise InputError(
                f"{path} is damaged: {name} was lost or changed. Predict the slide again. If you changed it, use "
                "`spatialdata.read_zarr`."
            )
    X = group["X"]
    if np.isnan(X.fill_value) and X.nchunks_initialized < X.nchunks:
        lost = X.nchunks - X.nchunks_initialized
        raise InputError(
            f"{path} is damaged: {lost} of {X.nchunks} chunks of values were lost. Predict the slide again."
        )


def check_fits_in_memory(shape: tuple[int, int], instead: str) -> None:
    """Raise if expression (spots, genes) is too large to be loaded; `instead` is the alternative."""
    n_bytes = shape[0] * shape[1] * np.dtype(np.float32).itemsize
    check_memory(n_bytes, f"{shape[0]:,} spots × {shape[1]:,} genes", f"{instead}, or raise the limit.")


def lazy_X(path: Path, key: str) -> Any:
    """Return `X` of a table in a store as a dask array with the chunks of the store."""
    import zarr
    from anndata.experimental import read_elem_lazy

    return read_elem_lazy(zarr.open_group(path, mode="r", use_consolidated=False)[f"tables/{key}/X"])


def lazy_table(table: AnnData, path: Path, key: str) -> AnnData:
    """Return a table with `X` left in a store."""
    return type(table)(lazy_X(path, key), obs=table.obs, var=table.var, obsm=dict(table.obsm), uns=dict(table.uns))


def complete(path: Path, key: str, *, var: Mapping[str, np.ndarray], attrs: Callable[[], Mapping[str, Any]]) -> None:
    """Add columns to `var` of a table in a store, then the attributes that `attrs` returns to the store.

    Use it only on a temporary store: an interruption leaves the store broken.
    """
    import zarr
    from anndata.io import read_elem, write_elem
    from spatialdata import SpatialData

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    table: Any = group[f"tables/{key}"]
    write_elem(table, "var", read_elem(table["var"]).assign(**var))
    _note_files(path, key, table)
    group.attrs.update(attrs())
    sdata = SpatialData()
    sdata.path = path
    sdata.write_consolidated_metadata()
