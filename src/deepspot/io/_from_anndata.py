from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import DIAMETER, LINK, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive, one_key
from deepspot._sdata.write import check_writable
from deepspot._spatial.boxes import check_inside
from deepspot._spatial.transforms import pitch_px, scaling, write_scale

from ._genes import name_genes, tissue_diameter
from ._image import CHUNK, load_image

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def from_anndata(
    adata: AnnData,
    image: str | Path | np.ndarray,
    *,
    mpp: float | None = None,
    spot_pitch_um: float | None = None,
    spot_diameter_um: float | None = None,
    image_scale: float = 1.0,
    name: str | None = None,
    library_id: str | None = None,
    gene_id_key: str | None = None,
) -> SpatialData:
    """Bring an AnnData in the layout of scanpy and squidpy, and its H&E image, into a SpatialData.

    Parameters
    ----------
    adata
        Spots × genes with ``obsm["spatial"]``: centres as x and y in full-resolution pixels. Scale factors are looked
        up in ``uns["spatial"]``.
    image
        Full-resolution H&E image: a .jpg, .png or .tif file, or a uint8 array (height, width, 3).
    mpp
        µm per full-resolution pixel; needed if neither the object nor `spot_pitch_um` tells.
    spot_pitch_um
        Distance between neighbouring spots in µm (Visium 100, Spatial Transcriptomics 200), from which `mpp` follows.
    spot_diameter_um
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
    >>> sdata = ds.io.from_anndata(adata, "slide.jpg", spot_pitch_um=100)  # doctest: +SKIP
    """
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity

    if "spatial" not in adata.obsm:
        raise KeyError(f"Key `'spatial'` not found in `adata.obsm`. Available keys: {list(adata.obsm)}.")
    pixels = load_image(image)
    library, entry = _library(adata, library_id)
    centers = _centers(adata)
    mpp = _scale(entry, centers, mpp, spot_pitch_um)
    drawn = entry.get("scalefactors", {}).get("spot_diameter_fullres")
    if spot_diameter_um is None:
        if drawn is None:
            raise ValueError(
                "The size of a spot is unknown: `adata.uns['spatial']` has no 'spot_diameter_fullres'. Pass "
                "`spot_diameter_um=` (55 for Visium, 100 for Spatial Transcriptomics)."
            )
        spot_diameter_um = tissue_diameter(float(drawn) * mpp)
    check_positive(spot_diameter_um, "spot_diameter_um")
    check_positive(image_scale, "image_scale")
    check_inside(centers * image_scale, pixels.shape[:2], "the image")

    name = valid_name(name or library or "slide")
    table = adata.copy()
    for stale in ("spatial", "spatialdata_attrs"):  # the second is there if the table came from a SpatialData
        table.uns.pop(stale, None)
    name_genes(table, gene_id_key)
    spots = np.arange(len(table))
    # Annotators like to call a column "region": theirs stays as it is.
    region_key, instance_key = (key if key not in table.obs else f"deepspot_{key}" for key in LINK)
    table.obs[region_key] = "spots"
    table.obs[region_key] = table.obs[region_key].astype("category")
    table.obs[instance_key] = spots
    check_writable(table)
    circles = ShapesModel.parse(
        centers,
        geometry=0,
        radius=float(drawn or spot_diameter_um / mpp) / 2,
        index=spots,
        transformations={"global": Identity()},
    )
    circles[DIAMETER] = float(spot_diameter_um)
    sdata = SpatialData(
        images={
            f"{name}_image": Image2DModel.parse(
                pixels.transpose(2, 0, 1),
                dims=("c", "y", "x"),
                c_coords=["r", "g", "b"],
                chunks=(3, CHUNK, CHUNK),
                transformations={"global": scaling(1 / image_scale)},
            )
        },
        shapes={"spots": circles},
        tables={"table": TableModel.parse(table, region="spots", region_key=region_key, instance_key=instance_key)},
    )
    write_scale(sdata, "spots", mpp)
    logger.info(
        "Read %s: %s spots × %s genes, %.4g µm per pixel, spots of %g µm.",
        name, f"{table.n_obs:,}", f"{table.n_vars:,}", mpp, spot_diameter_um,
    )  # fmt: skip
    return sdata


def _library(adata: AnnData, library_id: str | None) -> tuple[str | None, dict[str, Any]]:
    libraries = adata.uns.get("spatial", {})
    if not libraries and library_id is None:
        return None, {}
    key = one_key(library_id, libraries, "adata.uns['spatial']", "library_id")
    return key, dict(libraries[key])


def _centers(adata: AnnData) -> np.ndarray:
    centers = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    if centers.ndim != 2 or centers.shape[1] != 2:
        raise ValueError(f"`adata.obsm['spatial']` must be of shape (n, 2): x and y in pixels. Got {centers.shape}.")
    broken = ~np.isfinite(centers).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of {len(centers)} spots have no finite coordinates in `adata.obsm['spatial']`, the first "
            f"is {adata.obs_names[broken][0]!r}. Remove these spots first."
        )
    return centers


def _scale(entry: dict[str, Any], centers: np.ndarray, mpp: float | None, spot_pitch_um: float | None) -> float:
    stated = {}
    for part in ("metadata", "scalefactors"):
        if "microns_per_pixel" in entry.get(part, {}):
            stated[f"adata.uns['spatial'][…][{part!r}]"] = float(entry[part]["microns_per_pixel"])
    if mpp is not None:
        stated["`mpp`"] = check_positive(mpp, "mpp")
    if spot_pitch_um is not None:
        stated["`spot_pitch_um`"] = check_positive(spot_pitch_um, "spot_pitch_um") / pitch_px(centers)
    if not stated:
        raise ValueError(
            "The scale is unknown: `adata.uns['spatial']` has no 'microns_per_pixel'. Pass `mpp=` (µm per "
            "full-resolution pixel) or `spot_pitch_um=` (distance between neighbouring spots; 100 for Visium)."
        )
    values = list(stated.values())
    if max(values) > 1.05 * min(values):
        raise ValueError(
            "The scale contradicts itself, in µm per pixel: "
            + ", ".join(f"{value:.4g} from {source}" for source, value in stated.items())
            + ". State one, and remove the wrong one."
        )
    return values[0]
