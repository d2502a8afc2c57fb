from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import ARRAY, checked, one_key, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_mpp, check_positive
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import pitch_px
from deepspot.errors import InputError, MissingKeyError

from ._elements import (
    add_spots,
    as_centers,
    check_centers,
    image_object,
    load_image,
    name_genes,
    size_of,
    spots_in_tissue,
    tissue_diameter,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


@checked
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
        Spots × genes with ``obsm["spatial"]``: centers as x and y in full-resolution pixels. The columns of a data
        frame are ordered by their names. Scale factors are read from ``uns["spatial"]``. Spots whose ``obs`` says that
        they are not in tissue, or of another library, are left out.
    image
        Full-resolution H&E image: a .jpg, .png or .tif file, or a uint8 array (height, width, 3).
    mpp
        µm per full-resolution pixel. Required if `adata` does not state it and `pitch_um` is not given.
    pitch_um
        Distance between neighboring spots in µm (100 for Visium, 200 for Spatial Transcriptomics), to compute `mpp`.
    diameter_um
        Diameter of the tissue that a spot measures in µm (55 for Visium, 100 for Spatial Transcriptomics). By default
        ``bin_size_um``, or computed from ``spot_diameter_fullres``; the 65 µm of Space Ranger are read as 55.
    image_scale
        Pixels of `image` per full-resolution pixel (0.25 for an image downscaled by 4).
    name
        Name of the slide. Default: the library in ``uns["spatial"]``.
    library_id
        Library that the image shows; needed only if there are several. A column of ``obs`` must name the library of
        each spot: `library_id`, a column such as `sample` or `batch` with the names in ``uns["spatial"]``, or one
        whose groups lie between each other, as the spots of two slides do.
    gene_id_key
        Column of `var` with identifiers to use as gene names.

    Returns
    -------
    A SpatialData with ``images["<name>_image"]``, circles ``shapes["spots"]`` with a column `diameter_um`,
    ``tables["table"]`` (linked by the columns `region` and `spot_id`, or `deepspot_region` and `deepspot_spot_id` if
    these exist), and the coordinate systems ``"global"`` (full-resolution pixels) and ``"microns"``.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData.
    KeyError
        If ``obsm["spatial"]``, `library_id` or `gene_id_key` does not exist.
    FileNotFoundError
        If the image does not exist.
    ValueError
        If the scale is unknown, contradictory or outside 0.05 to 10 µm per pixel, coordinates are not finite, outside
        the image or in columns whose names do not tell x from y, the spots are of several slides, or the image is not
        RGB uint8.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.from_anndata(adata, "slide.jpg", pitch_um=100)  # doctest: +SKIP
    """
    if "spatial" not in adata.obsm:
        raise MissingKeyError(f"Key `'spatial'` not found in `adata.obsm`. Available keys: {list(adata.obsm)}.")
    if adata.isbacked or not hasattr(adata.obs, "select_dtypes"):  # the latter is of `read_lazy`
        adata = adata.to_memory()
    repeated = adata.obs.columns[adata.obs.columns.duplicated()]
    if len(repeated):
        raise InputError(f"`adata.obs` has several columns {repeated[0]!r}. Rename or remove all but one.")
    pixels = load_image(image)
    xy = as_centers(adata.obsm["spatial"], "adata.obsm['spatial']")
    library, entry, rows = _library(adata, xy, library_id)
    spots = spots_in_tissue(adata[rows], library or "the table")
    _check_one_slide(spots.obs)
    centers = check_centers(spots.obsm["spatial"], spots.obs_names, "adata.obsm['spatial']")
    drawn, bin_um = (_number(entry, "scalefactors", key) for key in ("spot_diameter_fullres", "bin_size_um"))
    mpp = _scale(entry, centers, mpp, pitch_um)
    if diameter_um is None:
        diameter_um = bin_um
    if diameter_um is None:
        if drawn is None:
            raise InputError(
                "The size of a spot is unknown: `adata.uns['spatial']` has no 'spot_diameter_fullres'. Pass "
                "`diameter_um=` (55 for Visium, 100 for Spatial Transcriptomics)."
            )
        diameter_um = tissue_diameter(drawn * mpp, pitch_px(centers) * mpp if len(centers) > 1 else np.inf)
    check_positive(diameter_um, "diameter_um")
    check_positive(image_scale, "image_scale")
    check_inside(centers * image_scale, pixels.shape[:2], "the image")

    name = valid_name(name or library or "slide")
    table = spots.copy()
    table.obsm["spatial"] = centers
    for stale in ("spatial", "spatialdata_attrs"):  # the latter exists in a table of a SpatialData
        table.uns.pop(stale, None)
    name_genes(table, gene_id_key)
    sdata = image_object(pixels, name, downscaled=1 / image_scale)
    add_spots(sdata, table, centers, mpp=mpp, diameter_um=diameter_um, drawn_px=drawn)
    logger.info("Read %s: %s, %.4g µm per pixel, spots of %g µm.", name, size_of(table), mpp, diameter_um)
    return sdata


# Columns of `obs` that may name slides: believed if the spots lie between each other, unlike sections on one slide.
_SLIDES = re.compile(
    r"(library|sample|slide|section|patient|donor|image)(id|name)?"
    r"|batch|dataset|origident|array|capturearea|replicate|subject"
)


def _library(adata: AnnData, xy: np.ndarray, library_id: str | None) -> tuple[str | None, dict[str, Any], np.ndarray]:
    """Return the name of the library, its entry in ``uns["spatial"]``, and the rows (n,) of its spots as a mask.

    `xy` (n, 2) are the centers of all spots.
    """
    spatial = adata.uns.get("spatial")
    # CELLxGENE adds a flag next to the library.
    spatial = spatial if isinstance(spatial, Mapping) else {}
    entries = {str(name): entry for name, entry in spatial.items() if isinstance(entry, Mapping)}
    known = {*entries} | ({library_id} - {None})
    regions = adata.uns.get("spatialdata_attrs", {}).get("region_key")  # of a table of a SpatialData
    words = set(adata.obs.select_dtypes(exclude=["number", "bool"]))
    named = {key for key in adata.obs if key == regions or _SLIDES.fullmatch(re.sub(r"[^a-z]", "", str(key).lower()))}
    # Numbers are read as text: 1, and 1.0 if others are missing.
    text = adata.obs[[key for key in adata.obs if key in words | named]].astype(str).replace(r"\.0$", "", regex=True)

    def names_slides(key: str) -> bool:
        """Return whether a column names slides: by its name and the known libraries, else by where the spots are."""
        values = set(text[key])
        if key in ("library_id", regions):
            return len(values) > 1 or not values.isdisjoint(known)
        if len(values) == 1 or key in named:
            believed = values <= known
        else:  # a cluster may have the name of a library
            believed = library_id in values and library_id not in entries
        if believed or (key not in named and values.isdisjoint(known)):
            return believed
        return _overlap(xy, text[key] if key in named or values <= known else text[key].isin(known))

    naming = [key for key in text if key in ("library_id", regions) and names_slides(key)]
    naming += [key for key in text if key not in naming and (key in named or not naming) and names_slides(key)]
    if library_id is None and not entries and not naming:
        return None, {}, np.ones(adata.n_obs, dtype=bool)
    present = dict.fromkeys(name for key in naming for name in text[key])
    where = f"adata.obs[{naming[0]!r}]" if naming else "adata.uns['spatial']"
    library = one_key(library_id, present or entries, where, "library_id")
    if not naming and len(entries) > 1:
        raise InputError(
            f"`adata` has the libraries {list(entries)}, and no column of `obs` names the library of each spot. Add a "
            f"column 'library_id', or keep the spots of {library!r} and remove the others from `adata.uns['spatial']`."
        )
    masks = {key: mask for key in naming if (mask := (text[key] == library).to_numpy()).any()}
    rows = next(iter(masks.values()), np.ones(adata.n_obs, dtype=bool))
    if any((mask != rows).any() for mask in masks.values()):
        raise InputError(
            f"The columns {list(masks)} of `adata.obs` disagree on the spots of {library!r}. Keep the one that names "
            "the library of each spot."
        )
    if not rows.all():
        n = f"{(~rows).sum():,} of {adata.n_obs:,}"
        logger.info("%s spots are not of library %r (obs[%r]) and are left out.", n, library, next(iter(masks)))
    return library, dict(entries.get(library, {})), rows


def _overlap(xy: np.ndarray, groups: pd.Series) -> bool:
    """Return whether spots (n, 2) of several groups lie between each other, as those of two slides do.

    Then many spots are nearer to one of another group than spots of the largest group are to each other.
    """
    from scipy.spatial import cKDTree

    finite = np.isfinite(xy).all(axis=1)
    xy, codes = xy[finite], groups[finite].astype("category").cat.codes.to_numpy()
    largest = xy[codes == np.bincount(codes).argmax()] if len(codes) else xy
    if len(largest) < 2:
        return False
    pitch = np.median(cKDTree(largest).query(largest, k=2)[0][:, 1])
    distance, nearest = cKDTree(xy).query(xy, k=2)
    other = np.where(nearest[:, 0] == np.arange(len(xy)), nearest[:, 1], nearest[:, 0])  # equal positions in any order
    # In the hole of a square array, a spot of another slide is at 0.71 of the pitch.
    return bool(((codes != codes[other]) & (distance[:, 1] < 0.75 * pitch)).mean() > 0.05)


def _check_one_slide(obs: pd.DataFrame) -> None:
    """Raise if two spots have the same position in the array, as spots of two slides have."""
    if set(ARRAY) <= set(obs.columns):
        repeated = obs.index[obs[list(ARRAY)].duplicated() & obs[list(ARRAY)].notna().all(axis=1)]
        if len(repeated):
            raise InputError(
                f"{len(repeated)} spots have the array position of another spot, the first is {repeated[0]!r}. Keep "
                "the spots of one slide."
            )


def _number(entry: Mapping[str, Any], part: str, key: str) -> float | None:
    """Return a number of ``uns["spatial"]``, or None if it is missing."""
    values = entry.get(part)
    value = values.get(key) if isinstance(values, Mapping) else None
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not 0 < number < np.inf:
        raise InputError(f"adata.uns['spatial'][…][{part!r}][{key!r}] must be a number above 0, got {value!r}.")
    return number


def _scale(entry: dict[str, Any], centers: np.ndarray, mpp: float | None, pitch_um: float | None) -> float:
    stated = {}
    for part in ("metadata", "scalefactors"):
        if (value := _number(entry, part, "microns_per_pixel")) is not None:
            stated[f"adata.uns['spatial'][…][{part!r}]"] = value
    side_px, side_um = (_number(entry, "scalefactors", key) for key in ("spot_diameter_fullres", "bin_size_um"))
    if side_px is not None and side_um is not None:
        stated["'bin_size_um' and 'spot_diameter_fullres'"] = side_um / side_px
    if mpp is not None:
        stated["`mpp`"] = check_mpp(mpp, "`mpp`")
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
    return check_mpp(values[0], next(iter(stated)))
