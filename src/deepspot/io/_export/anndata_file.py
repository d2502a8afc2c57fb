"""AnnData in the layout that the plots of scanpy and squidpy read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deepspot._sdata.view import NO_IMAGE
from deepspot._sdata.write import plain_text, single_entries
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
    """Write a file; an error names the column or entry that HDF5 cannot hold, which may be one that zarr can."""
    problem = _write_error(adata, path)
    if problem is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        entries = single_entries(adata, adata, adata.raw)
        tried = ((name, _write_error(entry, Path(folder) / "entry.h5ad")) for name, entry in entries)
        where = next((name for name, error in tried if error is not None), "An entry of the table")
    raise InputTypeError(
        f"{where} cannot be stored in an .h5ad ({problem}). Convert it to text or numbers, such as with "
        "`.astype(str)`, or remove it."
    ) from problem


def _write_error(adata: AnnData, path: Path) -> Exception | None:
    """Write a file and return the error, unless it is one of the disk or of too little memory."""
    try:
        adata.write_h5ad(path, compression="gzip")
    except Exception as error:  # of anndata and h5py, of various types
        if isinstance(error, OSError | MemoryError):
            raise
        return error
    return None
