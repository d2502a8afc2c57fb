from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import MICRONS, SLIDE, checked, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_genes
from deepspot._sdata.tables import rows_of
from deepspot._sdata.view import noun_of
from deepspot._sdata.zarr_store import check_files, check_fits_in_memory, lazy_X
from deepspot._spatial.transforms import has_scale
from deepspot.errors import InputError

from ._elements import read_store, reading, size_of

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData


@checked
def predicted(
    path: str | Path,
    *,
    genes: str | Sequence[str] | None = None,
    within_um: Sequence[float] | None = None,
    image: bool | str | Path = False,
) -> SpatialData:
    """Open a prediction on disk lazily, or load a part of it.

    Parameters
    ----------
    path
        Store that :func:`deepspot.tl.predict` wrote with `out`, or a slide of :func:`deepspot.cohort.run`.
    genes
        Genes to load into memory. The others are left out.
    within_um
        ``(x_min, y_min, x_max, y_max)`` in µm: region whose spots are loaded into memory. The others are left out.
    image
        True also opens the whole slide image, which is not in the store, at the path where it was predicted. If the
        file was moved, its new path. Figures and reports need the image.

    Returns
    -------
    A SpatialData with the spots and their table, and with `image` the image as :func:`deepspot.io.slide` opens it. `X`
    is a dask array on disk; with `genes` or `within_um` it is a float32 array in memory.
    :func:`spatialdata.read_zarr` reads the same store completely into memory.

    Raises
    ------
    FileNotFoundError
        If the store, or the image, does not exist.
    KeyError
        If a gene does not exist.
    ValueError
        If the store is damaged, there is no spot in the region, the part is larger than `settings.max_table_gb`, or the
        image is another one than that of the prediction.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.predicted("slide.zarr", genes=["FASN", "ERBB2"])  # doctest: +SKIP
    >>> ds.pl.spatial(ds.io.predicted("slide.zarr", image=True), "FASN")  # doctest: +SKIP
    """
    from spatialdata import SpatialData, bounding_box_query, get_extent

    path = Path(path).expanduser()
    if not (path / "zarr.json").is_file():
        raise FileNotFoundError(f"There is no store {str(path)!r}. `ds.tl.predict(sdata, out=…)` writes one.")
    with reading(path, "prediction"):
        table, key = _open_table(path)
        sdata = read_store(path, ("shapes",))
        region = str(table.uns["spatialdata_attrs"]["region"])
        shapes: GeoDataFrame = sdata.shapes[region]
    images = {} if image is False else dict(_reopen(sdata, image).images)
    columns: Any = slice(None)
    rows: Any = slice(None)
    if genes is not None:
        columns = table.var_names.get_indexer(check_genes(genes, table.var_names, f"the store {path.name!r}"))
    if within_um is not None:
        low, high = _corners(within_um)
        if not has_scale(sdata, region):
            raise InputError(
                f"The spots {region!r} have no coordinate system {MICRONS!r}, so their positions in µm are unknown. "
                "Set the scale of the slide with `ds.pp.set_scale`, and predict it again."
            )
        inside = bounding_box_query(
            shapes, axes=("x", "y"), min_coordinate=low, max_coordinate=high, target_coordinate_system=MICRONS
        )
        if inside is None or not len(inside):
            (x0, x1), (y0, y1) = (get_extent(shapes, coordinate_system=MICRONS)[axis] for axis in "xy")
            raise InputError(
                f"No spot of {region!r} is within {tuple(within_um)} µm. The spots are within "
                f"({x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f})."
            )
        shapes, rows = inside, np.flatnonzero(rows_of(table, region).isin(inside.index))
    load, noun = genes is not None or within_um is not None, noun_of(sdata, region)
    if load:
        table = table[rows, columns]
        check_fits_in_memory(table.shape, "Choose fewer with `genes=` and `within_um=`")
        with reading(path, "prediction"):
            table = table.to_memory()
    logger.info("Opened %s: %s%s.", path, size_of(table, noun), "" if load else ", on disk")
    return SpatialData(images=images, shapes={region: shapes}, tables={key: table}, attrs=dict(sdata.attrs))


def _reopen(sdata: SpatialData, image: str | Path | bool) -> SpatialData:
    """Open the whole slide of a prediction, at the path in its attributes or at a new one."""
    from ._slide import slide

    facts = sdata.attrs.get(SLIDE)
    if facts is None:
        raise InputError(
            "The image of this prediction cannot be opened again, because it was not read from a whole slide with "
            "`ds.io.slide`. Read it as for the prediction, and add it to `sdata.images`."
        )
    file = Path(facts["path"] if isinstance(image, bool) else image).expanduser()
    if not file.is_file():
        was = f"The image of slide {facts['name']!r} was {facts['path']}"
        raise FileNotFoundError(
            f"{was}, where it is no longer. Pass its new path as `image=`."
            if isinstance(image, bool)
            else f"There is no image {file}. {was}."
        )
    opened = slide(file, mpp=facts["mpp"], name=facts["name"])
    if opened.attrs[SLIDE]["fingerprint"] != facts["fingerprint"]:
        raise InputError(f"{file} is another image than {facts['path']}, of which slide {facts['name']!r} is.")
    return opened


def _open_table(path: Path) -> tuple[AnnData, str]:
    """Return the only table of a store, with `X` on disk, and its name."""
    import zarr
    from anndata import AnnData
    from anndata.io import read_elem

    root: Any = zarr.open_group(path, mode="r")
    tables = list(root["tables"]) if "tables" in root else []
    key = one_key(None, tables, f"tables of {path.name}", "table_key", "`ds.tl.predict(sdata, out=…)` writes one.")
    # There are hashes of the files of the table, and not of their copy in the root.
    group: Any = zarr.open_group(path, mode="r", use_consolidated=False)[f"tables/{key}"]
    check_files(path, group)
    parts = {part: read_elem(group[part]) for part in ("obs", "var", "obsm", "uns")}
    return AnnData(lazy_X(path, key), **parts), key


def _corners(within_um: Sequence[float]) -> tuple[list[float], list[float]]:
    corners = [float(value) for value in within_um]
    if len(corners) != 4 or not corners[0] < corners[2] or not corners[1] < corners[3]:
        raise InputError(f"`within_um` must be (x_min, y_min, x_max, y_max) in µm, got {tuple(within_um)}.")
    return corners[:2], corners[2:]
