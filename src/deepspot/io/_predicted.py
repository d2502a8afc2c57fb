from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import MICRONS
from deepspot._core.logging import logger
from deepspot._core.validate import check_genes, one_key
from deepspot._sdata.tables import rows_of
from deepspot._sdata.zarr_store import check_fits_in_memory, lazy_X
from deepspot._spatial.transforms import has_scale

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

SIDES = 4


def predicted(
    path: str | Path, *, genes: str | Sequence[str] | None = None, within: Sequence[float] | None = None
) -> SpatialData:
    """Open a slide that was predicted to disk, without loading its expression; or load some genes, or a region.

    Parameters
    ----------
    path
        A store that :func:`deepspot.tl.predict` made with `out`, or a slide of :func:`deepspot.tl.cohort`.
    genes
        Genes to load into memory; all others are left out.
    within
        ``(x_min, y_min, x_max, y_max)`` in µm: spots to load into memory; all others are left out.

    Returns
    -------
    A SpatialData with the spots and their table. `X` is a dask array on disk, or with `genes` or `within` a float32
    array in memory. (:func:`spatialdata.read_zarr` reads the same store, and loads all of it.)

    Raises
    ------
    FileNotFoundError
        If there is no store.
    KeyError
        If a gene is not in it.
    ValueError
        If no spot lies in the region, or what is to be loaded is larger than `settings.max_table_gb`.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.predicted("slide.zarr", genes=["FASN", "ERBB2"])  # doctest: +SKIP
    """
    from spatialdata import SpatialData, bounding_box_query, read_zarr

    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no store {str(path)!r}. Make one with `ds.tl.predict(sdata, out=…)`.")
    sdata = read_zarr(path, selection=("shapes",))
    table, key = _lazily(path)
    region = str(table.uns["spatialdata_attrs"]["region"])
    columns = slice(None)
    if genes is not None:
        columns = table.var_names.get_indexer(check_genes(genes, table.var_names, f"the store {path.name!r}"))
    rows: Any = slice(None)
    shapes: GeoDataFrame = sdata.shapes[region]
    if within is not None:
        low, high = _corners(within)
        if not has_scale(sdata, region):
            raise ValueError(
                f"The spots {region!r} have no coordinate system {MICRONS!r}, so nobody knows where they lie in "
                "µm. State the scale of the slide with `ds.pp.set_scale`, and predict it again."
            )
        shapes = bounding_box_query(shapes, axes=("x", "y"), min_coordinate=low, max_coordinate=high,
                                    target_coordinate_system=MICRONS)  # fmt: skip
        if shapes is None or not len(shapes):
            raise ValueError(f"No spot of {region!r} lies within {tuple(within)} µm. {_extent(sdata, region)}")
        rows = np.flatnonzero(rows_of(table, region).isin(shapes.index))
    if genes is not None or within is not None:
        table = table[rows, columns]
        check_fits_in_memory(table.shape, "Choose fewer with `genes=` and `within=`")
        table = table.to_memory()
    logger.info("Opened %s: %s spots × %s genes%s.", path, f"{table.n_obs:,}", f"{table.n_vars:,}",
                "" if genes is not None or within is not None else ", which stay on disk")  # fmt: skip
    return SpatialData(shapes={region: shapes}, tables={key: table}, attrs=dict(sdata.attrs))


def _lazily(path: Path) -> tuple[AnnData, str]:
    """The one table of a store, with `X` left on disk, and its name."""
    import zarr
    from anndata import AnnData
    from anndata.io import read_elem

    root: Any = zarr.open_group(path, mode="r")
    tables = list(root["tables"]) if "tables" in root else []
    key = one_key(None, tables, f"tables of {path.name}", "table_key")
    parts = {part: read_elem(root[f"tables/{key}/{part}"]) for part in ("obs", "var", "obsm", "uns")}
    return AnnData(lazy_X(path, key), **parts), key


def _corners(within: Sequence[float]) -> tuple[list[float], list[float]]:
    corners = [float(value) for value in within]
    if len(corners) != SIDES or not corners[0] < corners[2] or not corners[1] < corners[3]:
        raise ValueError(f"`within` must be (x_min, y_min, x_max, y_max) in µm, got {tuple(within)}.")
    return corners[:2], corners[2:]


def _extent(sdata: SpatialData, region: str) -> str:
    from spatialdata import get_extent

    extent = get_extent(sdata[region], coordinate_system=MICRONS)
    (x0, x1), (y0, y1) = extent["x"], extent["y"]
    return f"They lie within ({x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f})."
