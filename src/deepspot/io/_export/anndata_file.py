"""AnnData in the layout that the plots of scanpy and squidpy read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepspot._sdata.view import NO_IMAGE
from deepspot._sdata.write import plain_text
from deepspot._sdata.zarr_store import check_fits_in_memory
from deepspot.errors import InputTypeError

from .contents import Contents

if TYPE_CHECKING:
    from anndata import AnnData


def make_anndata(contents: Contents) -> AnnData:
    """Return a copy of the table with positions and downscaled images; all layers are kept."""
    rows, table = contents.matched[0], contents.table
    check_fits_in_memory((len(rows), len(contents.genes)), "Choose fewer genes with `genes=`")
    # A copy: parts of `obsm` can still be views, whose index cannot be changed.
    adata = table[rows, contents.columns].to_memory().copy()
    if hasattr(adata.X, "dask"):
        adata.X = contents.values(slice(0, len(rows)))
    adata.obs, adata.var = plain_text(adata.obs), plain_text(adata.var)
    for slot in (adata.obsm, adata.uns):  # such as markers and deconvolved proportions
        slot.update({name: plain_text(frame) for name, frame in slot.items() if isinstance(frame, pd.DataFrame)})
    adata.obs_names = contents.names
    adata.obsm["spatial"] = contents.centers
    del adata.uns["spatialdata_attrs"]  # the shapes are not in the file
    if contents.image_key != NO_IMAGE:
        images = contents.images()
        adata.uns["spatial"] = {
            contents.image_key: {
                "images": {name: pixels for name, (pixels, _) in images.items()},
                "scalefactors": contents.scale_factors(images),
                "metadata": contents.provenance(),
            }
        }
    return adata


def write_h5ad(adata: AnnData, path: Path) -> None:
    """Write a file; an error names the column or entry that cannot be stored in HDF5."""
    problem = _problem(lambda: adata.write_h5ad(path, compression="gzip"))
    if problem is None:
        return
    where = next((name for name, entry in _entries(adata) if not _is_storable(entry)), "An entry of the table")
    raise InputTypeError(
        f"{where} cannot be stored in an .h5ad ({problem}). Convert it to text or numbers, such as with "
        "`.astype(str)`, or remove it."
    ) from problem


def _entries(adata: AnnData) -> Iterator[tuple[str, Any]]:
    for axis in ("obs", "var"):
        for name in getattr(adata, axis):
            yield f"{axis}[{name!r}]", getattr(adata, axis)[[name]]
    for slot in ("uns", "obsm", "varm"):
        for name, entry in getattr(adata, slot).items():
            yield f"{slot}[{name!r}]", entry


def _is_storable(entry: Any) -> bool:
    import h5py
    from anndata.io import write_elem

    with h5py.File("entry", "w", driver="core", backing_store=False) as file:
        return _problem(lambda: write_elem(file, "entry", entry)) is None


def _problem(write: Callable[[], None]) -> Exception | None:
    """Call a function and return its error, unless it is one of the disk or of too little memory."""
    try:
        write()
    except Exception as error:  # of anndata and h5py, of various types
        if isinstance(error, OSError | MemoryError):
            raise
        return error
    return None
