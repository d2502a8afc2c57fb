"""Stores on disk: written beside, named when they are whole, and read without loading what is large."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import PREDICTION, UNS
from deepspot._core.logging import without_noise
from deepspot._core.settings import settings
from deepspot.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

COLUMNS = 512
"""Genes in a chunk on disk: some genes of a slide are read without the others."""


def check_new_path(out: Path, *, overwrite: bool = False) -> None:
    """Raise unless a store may be made under this name."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(out.parent)!r} to write {out.name!r} to. Make it first.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists. Pass `overwrite=True`, or another name.")


def check_replaceable(out: Path, sdata: SpatialData) -> None:
    """Raise unless what lies at `out` is nothing, or a prediction that was streamed to disk and nothing else."""
    if not out.exists():
        return
    own = None if sdata.path is None else Path(sdata.path).resolve()
    place = out.resolve()
    if own is not None and (place == own or place in own.parents or own in place.parents):
        raise InputError(f"{str(out)!r} is where this slide itself is stored. Choose another `out`.")
    if not _is_prediction(out):
        raise InputError(
            f"{str(out)!r} is no prediction that was streamed to disk, or holds more than that, and is not replaced. "
            "Choose another `out`, or delete it yourself."
        )


def _is_prediction(path: Path) -> bool:
    import zarr
    from anndata.io import read_elem

    try:
        root: Any = zarr.open_group(path, mode="r", use_consolidated=False)
        tables = list(root["tables"]) if set(root) == {"shapes", "tables"} else []
        return len(tables) == 1 and read_elem(root[f"tables/{tables[0]}/uns/{UNS}/kind"]) == PREDICTION
    except (OSError, KeyError):  # no store, or another one
        return False


@contextmanager
def write_atomically(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Name to write a store under; when all went well, it is moved to `out` in one step.

    The name is in a hidden folder beside `out`, which is deleted in any case but a kill. What is needed in the
    meantime may lie in it too.
    """
    check_new_path(out, overwrite=overwrite)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        draft = folder / out.name
        yield draft
        if out.exists():  # a folder cannot be replaced in one step: move the old one away first
            out.rename(folder / "old")
        draft.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_table_in_blocks(sdata: SpatialData, key: str, blocks: Iterable[np.ndarray], path: Path) -> None:
    """Write an object whose table has no `X` yet, and then `X` as it comes.

    Parameters
    ----------
    sdata
        Shapes and tables, no path of its own.
    key
        The table.
    blocks
        `X` from the top, each (b, genes) in float32; all but the last are of the same length.
    path
        Store to make.
    """
    import zarr
    from zarr.codecs import BloscCodec

    n, genes = sdata.tables[key].shape
    with without_noise():
        sdata.write(path)
    group: Any = zarr.open_group(path, mode="r+", use_consolidated=False)[f"tables/{key}"]
    if "X" in group:
        del group["X"]
    array: Any = None
    at = 0
    for block in blocks:
        if array is None:
            # Bytes of the same significance side by side: the trailing zeros of rounded numbers pack to nothing.
            array = group.create_array(
                "X",
                shape=(n, genes),
                chunks=(min(len(block), n), min(COLUMNS, genes)),
                dtype=np.float32,
                compressors=BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
                attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
            )
        array[at : at + len(block)] = block
        at += len(block)
    if at != n:
        raise InputError(f"The blocks hold {at} rows, the table {n}.")
    sdata.write_consolidated_metadata()


def check_fits_in_memory(shape: tuple[int, int], instead: str) -> None:
    """Raise if expression (spots, genes) is too large to be loaded; `instead` is the next step."""
    gb = shape[0] * shape[1] * np.dtype(np.float32).itemsize / 1e9
    if gb > settings.max_table_gb:
        raise InputError(
            f"{shape[0]:,} spots × {shape[1]:,} genes take {gb:.1f} GB in memory, above `ds.settings.max_table_gb` = "
            f"{settings.max_table_gb:g}. {instead}, or raise the limit."
        )


def lazy_X(path: Path, key: str) -> Any:
    """`X` of a table in a store, as a dask array in the chunks in which it is stored."""
    import zarr
    from anndata.experimental import read_elem_lazy

    return read_elem_lazy(zarr.open_group(path, mode="r")[f"tables/{key}/X"])


def lazy_table(table: AnnData, path: Path, key: str) -> AnnData:
    """A table whose `X` stays in a store."""
    return type(table)(lazy_X(path, key), obs=table.obs, var=table.var, obsm=dict(table.obsm), uns=dict(table.uns))


def complete(path: Path, key: str, *, var: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> None:
    """Add columns to `var` of a table in a store, and entries to the attributes of the store.

    A kill in between leaves it broken, so this is for a draft.
    """
    import zarr
    from anndata.io import read_elem, write_elem
    from spatialdata import SpatialData

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    table: Any = group[f"tables/{key}"]
    write_elem(table, "var", read_elem(table["var"]).assign(**var))
    group.attrs.update(attrs)
    sdata = SpatialData()
    sdata.path = path
    sdata.write_consolidated_metadata()
