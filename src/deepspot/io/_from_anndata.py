from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import one_key, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import pitch_px
from deepspot.errors import InputError, MissingKeyError

from ._elements import add_spots, check_centers, image_object, load_image, name_genes, size_of, tissue_diameter

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def from_anndata(
    adata: AnnData,
    image: str | Path | np.ndarray,
    *,
    mpp: float | None = None,
    pitch_um: float | None = None,
    diameter_um: float | None = None,
    image_scale: float = 1.0,
    name: str | None = None,
    library_id: str | None = None,
    gene_id_key: str | None = None,
) -> SpatialData:
    """Convert an AnnData in the format of scanpy and squidpy, with its H&E image, to a SpatialData.

    Parameters
    ----------
    adata
        Spots × genes with ``obsm["spatial"]``: centers as x and y in full-resolution pixels. Scale factors are read
        from ``uns["spatial"]``.
    image
        Full-resolution H&E image: a .jpg, .png or .tif file, or a uint8 array (height, width, 3).
    mpp
        µm per full-resolution pixel. Required if `adata` does not state it and `pitch_um` is not given.
    pitch_um
        Distance between neighboring spots in µm (100 for Visium, 200 for Spatial Transcriptomics), to compute `mpp`.
    diameter_um
        Diameter of the tissue that a spot measures in µm (55 for Visium, 100 for Spatial Transcriptomics). By default
        computed from ``spot_diameter_fullres``; the 65 µm of Space Ranger are read as 55.
    image_scale
        Pixels of `image` per full-resolution pixel (0.25 for an image downscaled by 4).
    name
        Name of the slide. Default: the library in ``uns["spatial"]``.
    library_id
        Library in ``uns["spatial"]``; needed only if there are several.
    gene_id_key
        Column of `var` with identifiers to use as gene names.

    Returns
    -------
    A SpatialData with ``images["<name>_image"]``, circles ``shapes["spots"]`` with a column `diameter_um`,
    ``tables["table"]`` (linked by the columns `region` and `spot_id`, or `deepspot_region` and `deepspot_spot_id` if
    these exist), and the coordinate systems ``"global"`` (full-resolution pixels) and ``"microns"``.

    Raises
    ------
    KeyError
        If ``obsm["spatial"]``, `library_id` or `gene_id_key` does not exist.
    FileNotFoundError
        If the image does not exist.
    ValueError
        If the scale is unknown or contradictory, coordinates are not finite or outside the image, or the image is not
        RGB uint8.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.from_anndata(adata, "slide.jpg", pitch_um=100)  # doctest: +SKIP
    """
    if "spatial" not in adata.obsm:
        raise MissingKeyError(f"Key `'spatial'` not found in `adata.obsm`. Available keys: {list(adata.obsm)}.")
    pixels = load_image(image)
    library, entry = _library(adata, library_id)
    centers = check_centers(adata.obsm["spatial"], adata.obs_names, "adata.obsm['spatial']")
    mpp = _scale(entry, centers, mpp, pitch_um)
    drawn = entry.get("scalefactors", {}).get("spot_diameter_fullres")
    if diameter_um is None:
        if drawn is None:
            raise InputError(
                "The size of a spot is unknown: `adata.uns['spatial']` has no 'spot_diameter_fullres'. Pass "
                "`diameter_um=` (55 for Visium, 100 for Spatial Transcriptomics)."
            )
        diameter_um = tissue_diameter(float(drawn) * mpp)
    check_positive(diameter_um, "diameter_um")
    check_positive(image_scale, "image_scale")
    check_inside(centers * image_scale, pixels.shape[:2], "the image")

    name = valid_name(name or library or "slide")
    table = adata.copy()
    for stale in ("spatial", "spatialdata_attrs"):  # the latter exists in a table of a SpatialData
        table.uns.pop(stale, None)
    name_genes(table, gene_id_key)
    sdata = image_object(pixels, name, downscaled=1 / image_scale)
    add_spots(sdata, table, centers, mpp=mpp, diameter_um=diameter_um, drawn_px=drawn)
    logger.info("Read %s: %s, %.4g µm per pixel, spots of %g µm.", name, size_of(table), mpp, diameter_um)
    return sdata


def _library(adata: AnnData, library_id: str | None) -> tuple[str | None, dict[str, Any]]:
    libraries = adata.uns.get("spatial", {})
    if not libraries and library_id is None:
        return None, {}
    key = one_key(library_id, libraries, "adata.uns['spatial']", "library_id")
    return key, dict(libraries[key])


def _scale(entry: dict[str, Any], centers: np.ndarray, mpp: float | None, pitch_um: float | None) -> float:
    stated = {}
    for part in ("metadata", "scalefactors"):
        if "microns_per_pixel" in entry.get(part, {}):
            stated[f"adata.uns['spatial'][…][{part!r}]"] = float(entry[part]["microns_per_pixel"])
    if mpp is not None:
        stated["`mpp`"] = check_positive(mpp, "mpp")
    if pitch_um is not None:
        stated["`pitch_um`"] = check_positive(pitch_um, "pitch_um") / pitch_px(centers)
    if not stated:
        raise InputError(
            "The scale is unknown: `adata.uns['spatial']` has no 'microns_per_pixel'. Pass `mpp=` (µm per "
            "full-resolution pixel) or `pitch_um=` (distance between neighboring spots; 100 for Visium)."
        )
    values = list(stated.values())
    if max(values) > 1.05 * min(values):
        sources = ", ".join(f"{value:.4g} from {source}" for source, value in stated.items())
        raise InputError(f"The scale is contradictory, in µm per pixel: {sources}. Pass one, and remove the wrong one.")
    return values[0]
