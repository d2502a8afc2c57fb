from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import ARRAY, DIAMETER, MICRONS, PIXELS, checked, key_in, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_count, check_mpp, check_positive
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.shapes import set_column
from deepspot._sdata.write import check_name, check_writable
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import centers_px, pitch_from_array, write_scale
from deepspot.errors import InputError

from ._elements import image_element, load_image, name_genes, reading
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

BINS, RAW, POSITIONS, SLICE = (
    "binned_outputs",
    "raw_feature_bc_matrix.h5",
    "tissue_positions.parquet",
    "feature_slice.h5",
)
OPTIONS = ("filtered_counts_file", "bins_as_squares", "gex_only", "anndata_kwargs", "image_models_kwargs")
"""Arguments of the reader of spatialdata-io. The others read what tiles and counts of bins do not need."""

AGREE = 1.05


@checked
def visium_hd(
    path: str | Path,
    *,
    bin_um: int = 16,
    fullres_image_file: str | Path | None = None,
    dataset_id: str | None = None,
    mpp: float | None = None,
    gene_id_key: str | None = None,
    **kwargs: Any,
) -> SpatialData:
    """Read bins of one size of a Visium HD folder of Space Ranger, with its scale, using spatialdata-io.

    Parameters
    ----------
    path
        Output folder of Space Ranger, with ``binned_outputs/square_016um`` and the like.
    bin_um
        Side of the bins in µm. Default: 16, the coarsest that Space Ranger writes, because a tile of a model shows tens
        of µm of tissue, and the counts of smaller bins are mostly zeros. 8 and 2 are read if the folder has them.
    fullres_image_file
        H&E image of the microscope that was the input of Space Ranger, relative to `path` or absolute. Without it there
        are only downscaled images, from which tiles cannot be read. The image of the CytAssist is not H&E.
    dataset_id
        Name of the slide. Default: the prefix of ``feature_slice.h5``, or the name of the folder.
    mpp
        µm per full-resolution pixel. By default ``microns_per_pixel`` of ``scalefactors_json.json``, which must agree
        with the positions of the bins.
    gene_id_key
        Column of `var` with identifiers to use as gene names: ``"gene_ids"`` for Ensembl.
    **kwargs
        Passed to :func:`spatialdata_io.visium_hd`: `filtered_counts_file`, `bins_as_squares`, `gex_only` (here True by
        default), `anndata_kwargs` and `image_models_kwargs`.

    Returns
    -------
    A SpatialData with ``images["<id>_full_image"]`` (if given), ``"<id>_hires_image"`` and ``"<id>_lowres_image"``,
    squares ``shapes["<id>_square_016um"]`` of the bins in tissue that have counts, with `diameter_um` = side of a bin,
    ``tables["square_016um"]``, and the coordinate system ``"microns"`` for all elements.

    Raises
    ------
    FileNotFoundError
        If the folder, the full-resolution image, or a file of the bins does not exist.
    ValueError
        If the folder has no bins of this size, a file is damaged, barcodes have no position, the scale is contradictory
        or outside 0.05 to 10 µm per pixel, or the image is not RGB uint8, not that of the microscope, or does not show
        all bins.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.visium_hd("outs", bin_um=8, fullres_image_file="../slide.btf")  # doctest: +SKIP
    """
    from spatialdata.transformations import Identity
    from spatialdata_io import visium_hd as read

    folder = Path(path).expanduser()
    image_file = None if fullres_image_file is None else Path(fullres_image_file).expanduser()
    options = check_options(kwargs, OPTIONS, read)
    counts_name = COUNTS if kwargs.setdefault("filtered_counts_file", True) else RAW
    bins = _find_bins(folder, check_count(bin_um, "bin_um"))
    _check_image(folder, image_file)
    for name in (counts_name, f"spatial/{FACTORS}", f"spatial/{POSITIONS}"):
        if not (bins / name).is_file():
            raise FileNotFoundError(f"{bins} has no {name}. Copy the complete folder of Space Ranger.")
    factors = _scale_factors(bins / "spatial" / FACTORS, bin_um)
    if mpp is not None:
        check_mpp(mpp, "`mpp`")
    slide_id = _name(folder, dataset_id)
    shapes_key, table_key = f"{slide_id}_{bins.name}", bins.name
    check_counts(bins / counts_name)
    positions = _positions(bins / "spatial" / POSITIONS)
    _check_barcodes(bins / counts_name, positions)
    if mpp is None:
        mpp = _mpp(factors, positions, bin_um, folder)
    pixels = None if image_file is None else load_image(folder / image_file)
    with (
        reading(bins, "folder of bins of Space Ranger"),
        warnings.catch_warnings(),
        _alone(bins, counts_name) as inside,
    ):
        warnings.filterwarnings("ignore", message="No (full resolution image|image path) found")  # they are added below
        warnings.filterwarnings("ignore", message="Converting `region_key")  # caused by the reader
        sdata = read(
            inside,
            dataset_id=slide_id,
            bin_size=bin_um,
            load_segmentations_only=False,
            var_names_make_unique=False,
            **{"gex_only": True} | kwargs,
        )
    name_genes(sdata.tables[table_key], gene_id_key)
    table = _keep_measured(sdata, shapes_key, table_key)
    if pixels is not None:
        sdata.images[f"{slide_id}_full_image"] = image_element(pixels, {slide_id: Identity()}, **options)
    has_images = (bins / "spatial" / "tissue_hires_image.png").is_file()
    add_downscaled(sdata, bins if has_images else folder, slide_id, factors)
    sdata.attrs[PIXELS] = slide_id
    check_writable(table)
    set_column(sdata, shapes_key, DIAMETER, bin_um)
    write_scale(sdata, shapes_key, mpp)
    if image_file is None:
        logger.warning(
            "No full-resolution image was given. The hires image has too few pixels per bin for tiles. Pass the image "
            "of the microscope that was the input of Space Ranger as `fullres_image_file=`."
        )
    else:
        image_key = f"{slide_id}_full_image"
        size = level_sizes(pyramid_levels(sdata, image_key))[0]
        check_same_slide(sdata, slide_id, factors, size, image_file)
        check_inside(centers_px(sdata, image_key, shapes_key), size, f"image {image_file.name!r}")
    n = f"{table.n_obs:,} bins × {table.n_vars:,} genes"
    logger.info("Read %s: %s, %.4g µm per pixel, bins of %d µm.", slide_id, n, mpp, bin_um)
    return sdata


def _find_bins(folder: Path, bin_um: int) -> Path:
    """Return the folder of the bins of a size."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass the output folder of Space Ranger, usually 'outs'.")
    check_technology(folder, "visium_hd")
    top = folder / BINS if (folder / BINS).is_dir() else folder
    # "square_016um" next to "square_008um": some downloads unpack without the folder above.
    found = {int(name[1]): each for each in top.iterdir() if (name := re.fullmatch(r"square_(\d{3})um", each.name))}
    found = {side: each for side, each in sorted(found.items()) if each.is_dir()}
    if not found:
        packed = [each.name for each in folder.iterdir() if each.name.startswith(f"{BINS}.tar")]
        hint = f"Unpack {packed[0]}." if packed else "Pass the folder that contains 'binned_outputs', usually 'outs'."
        raise FileNotFoundError(f"{folder} has no bins of Visium HD, such as {BINS}/square_016um. {hint}")
    if bin_um not in found:
        raise InputError(f"{folder} has no bins of {bin_um} µm. Choose one of `bin_um` = {list(found)}.")
    return found[bin_um]


def _check_image(folder: Path, image_file: Path | None) -> None:
    """Raise if the image does not exist, or is by its name that of the CytAssist or a downscaled one."""
    if image_file is None:
        return
    if not (folder / image_file).is_file():
        raise FileNotFoundError(
            f"There is no image {image_file} (nor in {folder}). Pass the image that was the input of Space Ranger."
        )
    wrong = {
        "cytassist": "is of the CytAssist, with several µm per pixel and eosin only",
        "hires_image": "is downscaled",
    }
    for part, problem in wrong.items():
        if part in image_file.name.lower():
            raise InputError(f"Image {image_file.name!r} {problem}. Pass the H&E image of the microscope.")


def _scale_factors(path: Path, bin_um: int) -> dict[str, float]:
    """Return the scale factors of the bins after a check that they agree with each other."""
    with reading(path, "JSON"):
        factors: Any = dict(json.loads(path.read_bytes()))
    needed = (
        "bin_size_um",
        "microns_per_pixel",
        "spot_diameter_fullres",
        "tissue_hires_scalef",
        "tissue_lowres_scalef",
    )
    values = {key: check_positive(factors[key_in(key, factors, str(path))], f"{key} of {path}") for key in needed}
    if values["bin_size_um"] != bin_um:
        raise InputError(
            f"{path} is of bins of {values['bin_size_um']:g} µm, in a folder of bins of {bin_um} µm. Copy the folder "
            "of Space Ranger again."
        )
    side = values["spot_diameter_fullres"] * values["microns_per_pixel"]
    if not np.isclose(side, bin_um):
        raise InputError(
            f"{path} is contradictory: 'spot_diameter_fullres' × 'microns_per_pixel' is {side:.4g} µm instead of the "
            f"{bin_um} of a bin. Copy the file of Space Ranger again."
        )
    return values


def _name(folder: Path, dataset_id: str | None) -> str:
    """Return the name of the slide: as given, the prefix of a file, or the folder."""
    if dataset_id is None:
        found = [each.name.removesuffix(f"_{SLICE}") for each in folder.glob(f"*_{SLICE}") if each.name[0] != "."]
        dataset_id = found[0] if len(found) == 1 else folder.resolve().name
    slide_id = valid_name(dataset_id)
    check_name(f"{slide_id}_downscaled_lowres")  # the longest
    if slide_id.lower() == MICRONS:
        raise InputError(
            f"The slide cannot be called {slide_id!r}, which is another name in the object. Pass `dataset_id=`."
        )
    return slide_id


def _positions(path: Path) -> pd.DataFrame:
    """Return the positions of all bins, by barcode, after a check of their values."""
    with reading(path, "parquet"):
        table = pd.read_parquet(path)
    if list(table.columns) != list(COLUMNS):
        raise InputError(
            f"{path} must have the columns {', '.join(COLUMNS)}, got {list(table)}. Copy the file of Space Ranger "
            "again."
        )
    for column in COLUMNS[1:]:
        values = pd.to_numeric(table[column], errors="coerce")
        broken = ~np.isfinite(values.to_numpy(dtype=float, na_value=np.nan))
        if broken.any():
            raise InputError(
                f"Column {column!r} of {path} has no number for {broken.sum()} bins, the first is "
                f"{table['barcode'][broken].iloc[0]!r}. Copy the file of Space Ranger again."
            )
    table = table.set_index("barcode")
    if table.index.has_duplicates:
        repeated = table.index[table.index.duplicated()][0]
        raise InputError(f"{path} has several rows of barcode {repeated!r}. Copy the file of Space Ranger again.")
    return table


def _check_barcodes(counts: Path, positions: pd.DataFrame) -> None:
    """Raise if bins have no position."""
    import h5py

    with reading(counts, "HDF5"), h5py.File(counts) as file:
        names = pd.Index(next(group for group in file.values() if isinstance(group, h5py.Group))["barcodes"].asstr()[:])
    unknown = names[~names.isin(positions.index)]
    if len(unknown):
        raise InputError(
            f"{len(unknown)} of {len(names)} barcodes of {counts.name} have no position in {POSITIONS}: it has "
            f"barcodes like {list(positions.index[:1])}, and not {unknown[0]!r}. Use the files of one slide and one "
            "size of bins."
        )


def _mpp(factors: dict[str, float], positions: pd.DataFrame, bin_um: int, folder: Path) -> float:
    """Return the stated µm per pixel if they agree with the distance between bins in pixels."""
    stated = check_mpp(factors["microns_per_pixel"], f"'microns_per_pixel' of {folder}")
    rows = positions.iloc[:: max(1, len(positions) // 100_000)]  # all bins of a slide are on one array
    centers = rows[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=float)
    fitted = bin_um / pitch_from_array(centers, rows[list(ARRAY)].to_numpy(dtype=float))
    if max(stated, fitted) > AGREE * min(stated, fitted):
        raise InputError(
            f"The scale is contradictory: {FACTORS} has {stated:.4g} µm per pixel, and the distance between bins of "
            f"{bin_um} µm makes it {fitted:.4g}. Check that {POSITIONS} and {FACTORS} belong together, or pass `mpp=`."
        )
    return stated


@contextmanager
def _alone(bins: Path, counts_name: str) -> Iterator[Path]:
    """Make a temporary folder with links to the files of one bin size, and nothing else.

    The reader lists the whole folder. It needs ``feature_slice.h5``, names the slide by its prefix, takes other files
    for images, and reads the polygons of segmented cells, which takes longer than the bins. Of ``feature_slice.h5`` it
    uses nothing for the bins but the version of the format.
    """
    import h5py

    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        inside = top / BINS / bins.name
        (inside / "spatial").mkdir(parents=True)
        for file in (counts_name, f"spatial/{FACTORS}", f"spatial/{POSITIONS}"):
            try:
                (inside / file).symlink_to((bins / file).resolve())
            except OSError:  # Windows lets administrators only
                shutil.copyfile(bins / file, inside / file)
        with h5py.File(top / SLICE, "w") as stand_in:
            layout = json.dumps({"file_format": "1.0"})
            stand_in.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout})
        yield top


def _keep_measured(sdata: SpatialData, shapes_key: str, table_key: str) -> AnnData:
    """Remove bins that are not in tissue or have no counts, and log their number; return the table."""
    table = sdata.tables[table_key]
    outside = table.obs["in_tissue"].to_numpy() == 0
    empty = ~outside & (np.asarray(table.X.sum(axis=1)).ravel() == 0)
    for dropped, what in ((outside, "are not in tissue"), (empty, "have no counts")):
        if dropped.any():
            n = f"{dropped.sum():,} of {len(dropped):,}"
            logger.info("%s bins of %s %s and are left out.", n, shapes_key, what)
    kept = ~(outside | empty)
    if not kept.any():
        raise InputError(f"No bin of {shapes_key!r} is in tissue and has counts. Check the counts and the positions.")
    if not kept.all():
        sdata.tables[table_key] = table[kept].copy()
        sdata.shapes[shapes_key] = sdata.shapes[shapes_key][kept]
    sdata.shapes[shapes_key].index.name = None
    return sdata.tables[table_key]
