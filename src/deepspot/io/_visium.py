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

from ._elements import SPACE_RANGER_UM, VISIUM_UM, name_genes, visium_mpp, warn_repeated_genes

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
    """Read a Space Ranger output folder, with its scale, through :func:`spatialdata_io.visium`.

    Parameters
    ----------
    path
        Folder with ``filtered_feature_bc_matrix.h5`` and ``spatial/``.
    fullres_image_file
        The microscope image that Space Ranger was given (it does not copy it), relative to `path` or absolute. Without
        it there are only the small copies, on which no tile of a spot can be read.
    dataset_id
        Name of the slide, by default the prefix of the counts file or the name of the folder.
    mpp
        µm per full-resolution pixel. By default fitted on the array, whose spots are 100 µm apart.
    gene_id_key
        Column of `var` whose identifiers become the gene names: ``"gene_ids"`` for Ensembl.
    **kwargs
        Handed on to :func:`spatialdata_io.visium`.

    Returns
    -------
    A SpatialData with ``images["<id>_full_image"]`` if there is one, ``"<id>_hires_image"`` and
    ``"<id>_lowres_image"``, ``shapes["<id>"]`` with `diameter_um` = 55 (circles are drawn at Space Ranger's 65 µm),
    ``tables["table"]``, and everything also in the coordinate system ``"microns"``.

    Raises
    ------
    FileNotFoundError
        If the folder, the full-resolution image or the scale factors are missing.
    ValueError
        If the pitch of the array and ``spot_diameter_fullres`` contradict each other, the image is not RGB uint8, or
        spots lie outside it.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.visium("outs", fullres_image_file="../slide.tif")  # doctest: +SKIP
    """
    from spatialdata_io import visium as read

    folder = Path(path)
    image_file = None if fullres_image_file is None else Path(fullres_image_file).expanduser()
    drawn_px = _check_files(folder, image_file)
    if mpp is not None:
        check_positive(mpp, "mpp")
    if dataset_id is None and not any(folder.glob("*_filtered_feature_bc_matrix.h5")):
        dataset_id = folder.resolve().name
    dataset_id = dataset_id and valid_name(dataset_id)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # logged below, with what to do
        warnings.filterwarnings("ignore", message="Converting `region_key")  # the reader's own doing
        sdata = read(folder, dataset_id=dataset_id, fullres_image_file=image_file, **kwargs)

    shapes_key, table = next(iter(sdata.shapes)), sdata.tables["table"]
    # The reader numbers genes of one name and does not log it: `TBCE-1` after `TBCE`.
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
                f"The scale contradicts itself: the array says {mpp:.4g} µm per pixel, at which "
                f"'spot_diameter_fullres' would be {diameter:.0f} µm instead of Space Ranger's {SPACE_RANGER_UM:g}. "
                "Check that tissue_positions and scalefactors_json.json belong together, or state `mpp=`."
            )
    write_scale(sdata, shapes_key, mpp)
    if image_file is None:
        logger.warning(
            "No full-resolution image was given: the hires image has too few pixels per spot to read tiles from. "
            "Pass the image that Space Ranger was given as `fullres_image_file=`."
        )
    else:
        image_key = f"{shapes_key}_full_image"
        size = level_sizes(pyramid_levels(sdata, image_key))[0]
        check_inside(centers_px(sdata, image_key, shapes_key), size, f"image {image_file.name!r}")
    return sdata


def _check_files(folder: Path, image_file: Path | None) -> float:
    """Raise if a file is missing, else return the diameter in pixels at which spots are drawn."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass Space Ranger's output folder, usually 'outs'.")
    if image_file is not None and not (folder / image_file).is_file():
        raise FileNotFoundError(
            f"There is no image {image_file} (nor in {folder}). Pass the image that Space Ranger was given."
        )
    path = folder / "spatial" / "scalefactors_json.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no scalefactors_json.json. Copy the complete 'spatial' folder of Space Ranger."
        )
    factors = json.loads(path.read_text())
    return factors[key_in("spot_diameter_fullres", factors, path.name)]
