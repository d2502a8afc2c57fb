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
    """Bring an AnnData in the layout of scanpy and squidpy, and its H&E image, into a SpatialData.

    Parameters
    ----------
    adata
        Spots × genes with ``obsm["spatial"]``: centers as x and y in full-resolution pixels. Scale factors are looked
        up in ``uns["spatial"]``.
    image
        Full-resolution H&E image: a .jpg, .png or .tif file, or a uint8 array (height, width, 3).
    mpp
        µm per full-resolution pixel; needed if neither the object nor `pitch_um` tells.
    pitch_um
        Distance between neighboring spots in µm (Visium 100, Spatial Transcriptomics 200), from which `mpp` follows.
    diameter_um
        Diameter of the tissue that a spot measures in µm (Visium 55, Spatial Transcriptomics 100). By default it
        follows from ``spot_diameter_fullres``, whose 65 µm in Visium are read as 55.
    image_scale
        Pixels of `image` per full-resolution pixel, for an image that was scaled down (0.25 for a quarter).
    name
        Name of the slide, by default the library in ``uns["spatial"]``.
    library_id
        Which library of ``uns["spatial"]`` to read, if it holds several.
    gene_id_key
        Column of `var` whose identifiers become the gene names.

    Returns
    -------
    A SpatialData with ``images["<name>_image"]``, ``shapes["spots"]`` (circles; `diameter_um` in a column),
    ``tables["table"]`` (linked by the columns `region` and `spot_id`, or `deepspot_region` and `deepspot_spot_id` where
    these names are taken), and the coordinate systems ``"global"`` (full-resolution pixels) and ``"microns"``.

    Raises
    ------
    KeyError
        If ``obsm["spatial"]``, `library_id` or `gene_id_key` is missing.
    ValueError
        If the scale is unknown or contradicts itself, coordinates are not finite or lie outside the image, or the image
        is not RGB uint8.

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
    for stale in ("spatial", "spatialdata_attrs"):  # the second is there if the table came from a SpatialData
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
        raise InputError(
            "The scale contradicts itself, in µm per pixel: "
            + ", ".join(f"{value:.4g} from {source}" for source, value in stated.items())
            + ". State one, and remove the wrong one."
        )
    return values[0]
