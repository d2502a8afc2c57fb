from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot._core.keys import DIAMETER, key_in, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.write import check_writable, set_column
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import centers_px, intrinsic_centers, write_scale
from deepspot.errors import InputError

from ._elements import (
    SPACE_RANGER_UM,
    VISIUM_UM,
    image_element,
    load_image,
    name_genes,
    visium_mpp,
    warn_repeated_genes,
)

if TYPE_CHECKING:
    from spatialdata import SpatialData


def visium(
    path: str | Path,
    *,
    fullres_image_file: str | Path | None = None,
    dataset_id: str | None = None,
    mpp: float | None = None,
    gene_id_key: str | None = None,
    **kwargs: Any,
) -> SpatialData:
    """Read a Space Ranger output folder, with its scale, using :func:`spatialdata_io.visium`.

    Parameters
    ----------
    path
        Folder with ``filtered_feature_bc_matrix.h5`` and ``spatial/``.
    fullres_image_file
        Microscope image that was the input of Space Ranger, relative to `path` or absolute; the folder does not contain
        it. Without it there are only downscaled images, from which tiles cannot be read.
    dataset_id
        Name of the slide. Default: the prefix of the counts file, or the name of the folder.
    mpp
        µm per full-resolution pixel. By default fitted on the spot array, whose pitch is 100 µm.
    gene_id_key
        Column of `var` with identifiers to use as gene names: ``"gene_ids"`` for Ensembl.
    **kwargs
        Passed to :func:`spatialdata_io.visium`.

    Returns
    -------
    A SpatialData with ``images["<id>_full_image"]`` (if given), ``"<id>_hires_image"`` and ``"<id>_lowres_image"``,
    ``shapes["<id>"]`` with `diameter_um` = 55 (circles are drawn with the 65 µm of Space Ranger), ``tables["table"]``,
    and the coordinate system ``"microns"`` for all elements.

    Raises
    ------
    FileNotFoundError
        If the folder, the full-resolution image or the scale factors do not exist.
    ValueError
        If the pitch of the array and ``spot_diameter_fullres`` are contradictory, the image is not RGB uint8, or spots
        are outside the image.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.visium("outs", fullres_image_file="../slide.tif")  # doctest: +SKIP
    """
    from spatialdata.transformations import Identity
    from spatialdata_io import visium as read

    folder = Path(path).expanduser()
    image_file = None if fullres_image_file is None else Path(fullres_image_file).expanduser()
    drawn_px = _check_files(folder, image_file)
    if mpp is not None:
        check_positive(mpp, "mpp")
    if dataset_id is None and not any(folder.glob("*_filtered_feature_bc_matrix.h5")):
        dataset_id = folder.resolve().name
    dataset_id = dataset_id and valid_name(dataset_id)
    # The reader takes gray, 16-bit and fluorescence images, and fails for brackets in a path.
    pixels = None if image_file is None else load_image(folder / image_file)
    options = kwargs.pop("image_models_kwargs", {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # logged below
        warnings.filterwarnings("ignore", message="Converting `region_key")  # caused by the reader
        sdata = read(folder, dataset_id=dataset_id, **kwargs)

    shapes_key, table = next(iter(sdata.shapes)), sdata.tables["table"]
    if pixels is not None:
        sdata.images[f"{shapes_key}_full_image"] = image_element(
            pixels, {shapes_key: Identity()}, **({"scale_factors": [2, 2, 2, 2]} | options)
        )
    # The reader makes gene names unique without a message: `TBCE-1` after `TBCE`.
    numbered = table.var_names[table.var_names.str.endswith("-1")].str.removesuffix("-1").intersection(table.var_names)
    if gene_id_key is None and len(numbered):
        warn_repeated_genes(list(numbered))
    name_genes(table, gene_id_key)
    check_writable(table)
    set_column(sdata, shapes_key, DIAMETER, VISIUM_UM)
    if mpp is None:
        mpp = visium_mpp(intrinsic_centers(sdata, shapes_key), table.obs)
        diameter = drawn_px * mpp
        if abs(diameter / SPACE_RANGER_UM - 1) > 0.1:
            raise InputError(
                f"The scale is contradictory: the array has {mpp:.4g} µm per pixel, which makes "
                f"'spot_diameter_fullres' {diameter:.0f} µm instead of the {SPACE_RANGER_UM:g} of Space Ranger. Check "
                "that tissue_positions and scalefactors_json.json belong together, or pass `mpp=`."
            )
    write_scale(sdata, shapes_key, mpp)
    if image_file is None:
        logger.warning(
            "No full-resolution image was given. The hires image has too few pixels per spot for tiles. Pass the image "
            "that was the input of Space Ranger as `fullres_image_file=`."
        )
    else:
        image_key = f"{shapes_key}_full_image"
        size = level_sizes(pyramid_levels(sdata, image_key))[0]
        check_inside(centers_px(sdata, image_key, shapes_key), size, f"image {image_file.name!r}")
    return sdata


def _check_files(folder: Path, image_file: Path | None) -> float:
    """Check that the files exist; return the diameter of spots in pixels that Space Ranger states."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass the output folder of Space Ranger, usually 'outs'.")
    if image_file is not None and not (folder / image_file).is_file():
        raise FileNotFoundError(
            f"There is no image {image_file} (nor in {folder}). Pass the image that was the input of Space Ranger."
        )
    path = folder / "spatial" / "scalefactors_json.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no scalefactors_json.json. Copy the complete 'spatial' folder of Space Ranger."
        )
    factors = json.loads(path.read_text())
    return factors[key_in("spot_diameter_fullres", factors, path.name)]
