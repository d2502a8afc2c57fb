from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepspot._core.keys import DIAMETER, MICRONS, PIXELS, checked, key_in, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_mpp, check_positive
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.shapes import set_column
from deepspot._sdata.write import check_name, check_writable
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import centers_px, intrinsic_centers, write_scale
from deepspot.errors import InputError

from ._elements import (
    SPACE_RANGER_UM,
    VISIUM_UM,
    image_element,
    load_image,
    name_genes,
    reading,
    spots_in_tissue,
    visium_mpp,
    warn_repeated_genes,
)
from ._space_ranger import (
    COLUMNS,
    COUNTS,
    FACTORS,
    add_downscaled,
    check_counts,
    check_options,
    check_same_slide,
    check_technology,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

POSITIONS = ("tissue_positions_list.csv", "tissue_positions.csv")


@checked
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
    ``shapes["<id>"]`` of the spots in tissue, with `diameter_um` = 55 (circles are drawn with the 65 µm of Space
    Ranger), ``tables["table"]``, and the coordinate system ``"microns"`` for all elements.

    Raises
    ------
    FileNotFoundError
        If the folder, the full-resolution image, the scale factors, the counts or the positions do not exist.
    ValueError
        If a file is damaged, the folder is an output of Visium HD, barcodes have no position, the pitch of the array
        and ``spot_diameter_fullres`` are contradictory, the image is not RGB uint8, or spots are outside the image.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.visium("outs", fullres_image_file="../slide.tif")  # doctest: +SKIP
    """
    from spatialdata.transformations import Identity
    from spatialdata_io import visium as read

    folder = Path(path).expanduser()
    image_file = None if fullres_image_file is None else Path(fullres_image_file).expanduser()
    options = check_options(kwargs, _reader_options(), read)
    factors_file = folder / kwargs.pop("scalefactors_file", f"spatial/{FACTORS}")
    factors = _check_files(folder, image_file, factors_file)
    if mpp is not None:
        check_mpp(mpp, "`mpp`")
    counts = _find_counts(folder, str(kwargs.pop("counts_file", COUNTS)))
    if counts.suffix == ".h5":
        check_counts(counts)
    positions, known = _find_positions(folder, kwargs.pop("tissue_positions_file", None))
    if dataset_id is None:
        prefix = counts.name.removesuffix(COUNTS).removesuffix("_")
        dataset_id = folder.resolve().name if prefix in ("", counts.name) else prefix
    dataset_id = valid_name(dataset_id)
    check_name(f"{dataset_id}_downscaled_lowres")  # the longest
    if dataset_id.lower() in ("table", MICRONS):
        raise InputError(
            f"The slide cannot be called {dataset_id!r}, which is another name in the object. Pass `dataset_id=`."
        )
    # The reader accepts gray, 16-bit and fluorescence images, and fails for brackets in a path.
    pixels = None if image_file is None else load_image(folder / image_file)
    # The reader guesses names from the files in a folder, also from "._" files of macOS, and fails for gray images of
    # the tissue. In the folder "spatial" it finds nothing but what it is told.
    inside = folder / "spatial"
    files = {"counts_file": counts, "tissue_positions_file": positions, "scalefactors_file": factors_file}
    with reading(folder, "output folder of Space Ranger"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # logged below
        warnings.filterwarnings("ignore", message="Converting `region_key")  # caused by the reader
        sdata = read(
            inside,
            dataset_id=dataset_id,
            **{name: Path(os.path.relpath(file, inside)).as_posix() for name, file in files.items()},
            **kwargs,
        )
    shapes_key, table = next(iter(sdata.shapes)), sdata.tables["table"]
    _check_barcodes(table, counts, positions, known)
    kept = spots_in_tissue(table, shapes_key)
    if len(kept) < len(table):
        table = sdata.tables["table"] = kept.copy()
        sdata.shapes[shapes_key] = sdata.shapes[shapes_key].loc[table.obs["spot_id"].to_numpy()]
    if pixels is not None:
        sdata.images[f"{shapes_key}_full_image"] = image_element(pixels, {shapes_key: Identity()}, **options)
    add_downscaled(sdata, folder, shapes_key, factors)
    sdata.attrs[PIXELS] = shapes_key
    # The reader makes gene names unique without a message: `TBCE-1` after `TBCE`.
    numbered = table.var_names[table.var_names.str.endswith("-1")].str.removesuffix("-1").intersection(table.var_names)
    if gene_id_key is None and len(numbered):
        warn_repeated_genes(list(numbered))
    name_genes(table, gene_id_key)
    check_writable(table)
    set_column(sdata, shapes_key, DIAMETER, VISIUM_UM)
    if mpp is None:
        mpp = visium_mpp(intrinsic_centers(sdata, shapes_key), table.obs)
        diameter = factors["spot_diameter_fullres"] * mpp
        if abs(diameter / SPACE_RANGER_UM - 1) > 0.1:
            raise InputError(
                f"The scale is contradictory: the array has {mpp:.4g} µm per pixel, which makes "
                f"'spot_diameter_fullres' {diameter:.0f} µm instead of the {SPACE_RANGER_UM:g} of Space Ranger. Check "
                "that tissue_positions and scalefactors_json.json belong together, or pass `mpp=`."
            )
    write_scale(sdata, shapes_key, check_mpp(mpp, f"The array of {folder}"))
    if image_file is None:
        logger.warning(
            "No full-resolution image was given. The hires image has too few pixels per spot for tiles. Pass the image "
            "that was the input of Space Ranger as `fullres_image_file=`."
        )
    else:
        image_key = f"{shapes_key}_full_image"
        size = level_sizes(pyramid_levels(sdata, image_key))[0]
        check_same_slide(sdata, shapes_key, factors, size, image_file)
        check_inside(centers_px(sdata, image_key, shapes_key), size, f"image {image_file.name!r}")
    return sdata


def _reader_options() -> set[str]:
    from inspect import signature

    from scanpy import read_10x_h5
    from spatialdata_io import visium as read

    return {*signature(read).parameters, *signature(read_10x_h5).parameters} - {"path", "filename", "kwargs"}


def _check_files(folder: Path, image_file: Path | None, path: Path) -> dict[str, float]:
    """Check that the files exist; return the scale factors."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass the output folder of Space Ranger, usually 'outs'.")
    if image_file is not None and not (folder / image_file).is_file():
        raise FileNotFoundError(
            f"There is no image {image_file} (nor in {folder}). Pass the image that was the input of Space Ranger."
        )
    factors: Any = {}
    if path.is_file():
        with reading(path, "JSON"):
            factors = dict(json.loads(path.read_bytes()))
    check_technology(folder, "visium")
    if "bin_size_um" in factors:
        raise InputError(
            f"{folder} is an output of Visium HD, which has bins instead of spots. Read it with `ds.io.visium_hd`."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}. Copy the complete 'spatial' folder of Space Ranger."
        )
    needed = ("spot_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef")
    return {key: check_positive(factors[key_in(key, factors, str(path))], f"{key} of {path}") for key in needed}


def _find_counts(folder: Path, name: str) -> Path:
    """Return the file with counts: of this name, or the only one that ends with it after a prefix."""
    if (folder / name).exists():
        return folder / name
    found = sorted(path for path in folder.iterdir() if path.name.endswith(f"_{name}") and path.name[0] != ".")
    if len(found) == 1:
        return found[0]
    if found:
        names = [path.name for path in found]
        raise InputError(f"{folder} has the counts of several slides: {names}. Choose one with `counts_file=`.")
    raise FileNotFoundError(
        f"{folder} has no {name}. Pass the output folder of Space Ranger, or the name of another file with counts as "
        "`counts_file=`."
    )


def _find_positions(folder: Path, name: str | None) -> tuple[Path, pd.Index]:
    """Return the file with the positions of spots, after a check of its content, and its barcodes."""
    names = [f"spatial/{each}" for each in POSITIONS] if name is None else [name]
    path = next((path for each in names if (path := folder / each).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder} has no {' or '.join(names)}. Copy the complete 'spatial' folder of Space Ranger."
        )
    with reading(path, "CSV"):
        table = pd.read_csv(path, header=None, dtype=str)
    named = "in_tissue" in set(table.iloc[0])
    table = table[1:].set_axis(table.iloc[0], axis=1) if named else table
    if not named and (path.name == POSITIONS[1] or table.shape[1] != len(COLUMNS)):
        raise InputError(
            f"{path} must be a comma-separated table of {', '.join(COLUMNS)}, with these names in its first line "
            f"unless it is called {POSITIONS[0]}. Its first line is {list(table.iloc[0])}. Copy the file of Space "
            "Ranger again."
        )
    numbers = table.set_axis(COLUMNS, axis=1) if not named else table
    for column in COLUMNS[2:]:
        values = pd.to_numeric(numbers[key_in(column, numbers, str(path))], errors="coerce")
        if values.isna().any():
            line = values.isna().idxmax() + 1
            raise InputError(f"Column {column!r} of {path} has a value that is no number in line {line}.")
    if "barcode" in list(table.columns[1:]):  # the reader takes the first column
        raise InputError(f"Column 'barcode' of {path} must be the first, got {list(table)}. Move it to the front.")
    barcodes = pd.Index(table.iloc[:, 0])
    if barcodes.has_duplicates:
        raise InputError(f"{path} has several lines of barcode {barcodes[barcodes.duplicated()][0]!r}. Keep one.")
    return path, barcodes


def _check_barcodes(table: AnnData, counts: Path, positions: Path, known: pd.Index) -> None:
    """Raise if spots have no position."""
    unknown = table.obs_names[~table.obs_names.isin(known)]
    if len(unknown):
        raise InputError(
            f"{len(unknown)} of {table.n_obs} barcodes of {counts.name} have no position in {positions.name}: it has "
            f"barcodes like {list(known[:1])}, and not {unknown[0]!r}. Use the files of one slide, with the barcodes "
            "as Space Ranger wrote them."
        )
