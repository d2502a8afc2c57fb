from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import PARENT, PIXELS, checked, key_in
from deepspot._core.logging import logger
from deepspot._core.validate import check_mpp
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.write import check_writable
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import affine, centers_px, write_pixels, write_scale
from deepspot.errors import InputError

from ._elements import image_element, load_image, name_genes, reading
from ._space_ranger import check_counts, check_options, check_technology

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

SPECS, COUNTS, CELLS = "experiment.xenium", "cell_feature_matrix.h5", "cells.parquet"
CELL_POLYGONS, NUCLEUS_POLYGONS = "cell_boundaries", "nucleus_boundaries"
LEFT_OUT = ("transcripts", "morphology_focus", "morphology_mip", "cells_labels", "nucleus_labels")
OPTIONS = (*LEFT_OUT, "imread_kwargs", "image_models_kwargs", "labels_models_kwargs")
"""Arguments of the reader of spatialdata-io: elements that are not read by default, and options of their models."""

HE, HE_PIXELS = "he_image", "he_pixels"
GENES = "Gene Expression"
SQUARE = 1.02
"""Largest ratio of the scales of an alignment matrix along two axes: that of pixels, which must be square."""


@checked
def xenium(
    path: str | Path,
    *,
    image: str | Path | None = None,
    alignment_file: str | Path | None = None,
    nucleus_boundaries: bool = False,
    gene_id_key: str | None = None,
    **kwargs: Any,
) -> SpatialData:
    """Read the cells of a Xenium output folder and their H&E image, with its scale, using spatialdata-io.

    Parameters
    ----------
    path
        Output folder of Xenium Onboard Analysis or Xenium Ranger, with ``experiment.xenium``.
    image
        H&E image of the section, relative to `path` or absolute. Without it there are only cells: tiles cannot be read
        from the fluorescence images of the folder.
    alignment_file
        Matrix (3 × 3, without a header) from pixels of `image` to pixels of Xenium, as Xenium Explorer exports it.
        Default: the file next to the image that has its name and ends with ``alignment.csv`` or ``matrix.csv``.
    nucleus_boundaries
        Also read the polygons of the nuclei.
    gene_id_key
        Column of `var` with identifiers to use as gene names: ``"gene_ids"`` for Ensembl.
    **kwargs
        Passed to :func:`spatialdata_io.xenium`: `transcripts`, `morphology_focus`, `morphology_mip`, `cells_labels`,
        `nucleus_labels` (here False by default), and options of their models. `image_models_kwargs` are also those of
        the H&E image.

    Returns
    -------
    A SpatialData with polygons ``shapes["cell_boundaries"]``, ``tables["table"]`` with the counts of their genes
    (without control probes and codewords), the coordinate systems ``"global"`` (pixels of Xenium) and ``"microns"``
    and, if given, ``images["he_image"]``, whose pixels are the coordinate system ``"he_pixels"``. Polygons
    ``shapes["nucleus_boundaries"]`` have the cell of a nucleus in the column `parent`. Cells have no `diameter_um`: the
    side of a tile is that of the model, or ``tile_um=``.

    Raises
    ------
    FileNotFoundError
        If the folder, one of its files, the image or its alignment does not exist.
    ValueError
        If a file is damaged, the alignment is no similarity or gives a scale outside 0.05 to 10 µm per pixel, the image
        is not RGB uint8, or it does not show most cells.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.xenium("outs", image="../he_image.ome.tif")  # doctest: +SKIP
    """
    from spatialdata_io import xenium as read

    folder = Path(path).expanduser()
    options = check_options(kwargs, OPTIONS, read)
    pixel_size = _check_files(folder, nucleus_boundaries)
    if image is None and alignment_file is not None:
        raise InputError("`alignment_file` belongs to an image. Pass the H&E image as `image=`.")
    # The readers of images of spatialdata-io accept gray, 16-bit and fluorescence images, and no alignment at all.
    aligned = None if image is None else _alignment(folder, image, alignment_file, pixel_size)
    check_counts(folder / COUNTS)
    kinds = _feature_types(folder / COUNTS)
    pixels = None if aligned is None else load_image(aligned[0], planes=True)
    with reading(folder, "output folder of Xenium"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The table is annotating")  # labels, which are not read
        sdata = read(
            folder,
            nucleus_boundaries=nucleus_boundaries,
            aligned_images=False,
            image_models_kwargs=options,
            **dict.fromkeys(LEFT_OUT, False) | kwargs,
        )
    name_genes(sdata.tables["table"], gene_id_key)
    _annotate_polygons(sdata)
    if pixels is not None and aligned is not None:
        image_file, matrix = aligned
        sdata.images[HE] = image_element(pixels, {"global": affine(matrix)}, **options)
        _keep_shown(sdata, image_file)
        write_pixels(sdata, HE, HE_PIXELS)
        sdata.attrs[PIXELS] = HE_PIXELS
    if nucleus_boundaries and NUCLEUS_POLYGONS in sdata.shapes:
        _assign_nuclei(sdata)
    table = sdata.tables["table"]
    check_writable(table)
    write_scale(sdata, CELL_POLYGONS, 1.0)  # the polygons are in µm
    if pixels is None:
        logger.warning(
            "No H&E image was given. Tiles cannot be read from fluorescence images. Pass the H&E image as `image=`, "
            "with its alignment from Xenium Explorer."
        )
    others = ", ".join(f"{n:,} {kind!r}" for kind, n in kinds.drop(GENES, errors="ignore").items())
    if others:
        logger.info("Features that are not genes are left out: %s.", others)
    logger.info("Read %s: %s cells × %s genes.", folder.resolve().name, f"{table.n_obs:,}", f"{table.n_vars:,}")
    logger.info(
        "The genes are a panel. Counts per 10,000 are relative to the %d genes of this panel, and cannot be compared "
        "with another panel or the whole transcriptome. `normalize=` of `ds.models.SlideKeys` sets the scale of a "
        "training: 'log1p_counts' does not divide by the counts of the panel.",
        table.n_vars,
    )
    return sdata


def _check_files(folder: Path, nucleus_boundaries: bool) -> float:
    """Check that the files exist; return the µm per pixel of Xenium."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass the output folder of Xenium.")
    check_technology(folder, "xenium")
    polygons = [CELL_POLYGONS] + [NUCLEUS_POLYGONS] * nucleus_boundaries
    for name in (SPECS, CELLS, COUNTS, "cells.zarr.zip", *(f"{each}.parquet" for each in polygons)):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}. Copy the complete output folder of Xenium.")
    with reading(folder / SPECS, "JSON"):
        specs = dict(json.loads((folder / SPECS).read_bytes()))
    return check_mpp(specs[key_in("pixel_size", specs, str(folder / SPECS))], f"'pixel_size' of {folder / SPECS}")


def _alignment(
    folder: Path, image: str | Path, alignment_file: str | Path | None, pixel_size: float
) -> tuple[Path, np.ndarray]:
    """Return the path of the H&E image and the matrix (3, 3) from its pixels to those of Xenium, after checks."""
    image_file = folder / Path(image).expanduser()
    if not image_file.is_file():
        raise FileNotFoundError(f"There is no image {image} (nor in {folder}). Pass the H&E image of the section.")
    if image_file.name.startswith("morphology") or image_file.parent.name == "morphology_focus":
        raise InputError(f"{image_file} is a fluorescence image of Xenium. Pass the H&E image of the section.")
    if alignment_file is None:
        path = _find_alignment(image_file)
    else:
        path = folder / Path(alignment_file).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no alignment {alignment_file} (nor in {folder}).")
    with reading(path, "CSV"):
        values = pd.read_csv(path, header=None).apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    if values.shape != (3, 3) or not np.isfinite(values).all() or not np.allclose(values[2], [0, 0, 1]):
        raise InputError(
            f"{path} must be a matrix of 3 × 3 numbers without a header, whose last row is 0, 0, 1. Export the "
            "transformation matrix from Xenium Explorer, not the keypoints."
        )
    along = np.linalg.svd(values[:2, :2], compute_uv=False)
    if along[0] > SQUARE * along[1]:
        raise InputError(
            f"The alignment {path} shears or stretches the image: its scales are {along[0]:.4g} and {along[1]:.4g}. "
            "Tiles need square pixels. Align the image with rotation, translation and one scale."
        )
    mpp = check_mpp(pixel_size * float(np.sqrt(along.prod())), f"The alignment {path}")
    logger.info("The H&E image %s has %.4g µm per pixel by its alignment %s.", image_file.name, mpp, path.name)
    return image_file, values


def _find_alignment(image_file: Path) -> Path:
    """Return the alignment next to an image, by the names that Xenium Explorer and 10x Genomics use."""
    stem = re.sub(r"(\.ome)?\.[^.]+$", "", image_file.name)
    names = [
        f"{stem}alignment.csv",
        f"{stem}_alignment.csv",
        f"{stem}_matrix.csv",
        f"{stem}_alignment_files/matrix.csv",
    ]
    found = [name for name in names if (image_file.parent / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"The alignment of {image_file.name} is missing: {image_file.parent} has no {' or '.join(names)}. Pass the "
            "matrix that Xenium Explorer exports as `alignment_file=`. For an image in the pixels of Xenium, write the "
            "matrix 1,0,0 / 0,1,0 / 0,0,1 to a file."
        )
    if len(found) > 1:
        raise InputError(f"{image_file.name} has several alignments: {found}. Choose one with `alignment_file=`.")
    return image_file.parent / found[0]


def _feature_types(path: Path) -> pd.Series:
    """Return the number of features of each type."""
    import h5py

    with reading(path, "table of counts"), h5py.File(path) as file:
        kinds = pd.Series(file["matrix/features/feature_type"].asstr()[:]).value_counts()
    if GENES not in kinds:
        raise InputError(f"{path} has no features of the type {GENES!r}, but {list(kinds.index)}. Get other counts.")
    return kinds


def _annotate_polygons(sdata: SpatialData) -> None:
    """Make the table annotate the polygons of the cells, in the same order. The reader relates it to labels."""
    from spatialdata.models import TableModel

    table: AnnData = sdata.tables["table"]
    polygons = sdata.shapes[CELL_POLYGONS]
    kept = table.obs["cell_id"].isin(polygons.index).to_numpy()
    if not kept.any():
        raise InputError("No cell of the counts has a polygon. Use the files of one slide.")
    if not kept.all():
        logger.info("%s of %s cells have no polygon and are left out.", f"{(~kept).sum():,}", f"{len(kept):,}")
    table = table[kept].copy()
    table.uns.pop("spatialdata_attrs")
    table.obs["region"] = pd.Categorical([CELL_POLYGONS] * table.n_obs)
    polygons = polygons.loc[table.obs["cell_id"]]
    polygons.index.name = None
    # The table of the reader annotates labels that may be absent.
    del sdata.tables["table"]
    sdata.shapes[CELL_POLYGONS] = polygons
    sdata.tables["table"] = TableModel.parse(table, region=CELL_POLYGONS, region_key="region", instance_key="cell_id")


def _keep_shown(sdata: SpatialData, image_file: Path) -> None:
    """Remove cells outside of the H&E image if they are few, and log their number."""
    size = level_sizes(pyramid_levels(sdata, HE))[0]
    centers = centers_px(sdata, HE, CELL_POLYGONS)
    shown = np.logical_and(centers >= 0, centers <= size[::-1]).all(axis=1)
    if shown.mean() < 0.5:
        check_inside(centers, size, f"image {image_file.name!r}")
    if not shown.all():
        logger.warning(
            "%s of %s cells lie outside the H&E image and are left out. Check its alignment if it shows all of them.",
            f"{(~shown).sum():,}",
            f"{len(centers):,}",
        )
        sdata.tables["table"] = sdata.tables["table"][shown].copy()
        sdata.shapes[CELL_POLYGONS] = sdata.shapes[CELL_POLYGONS][shown]


def _assign_nuclei(sdata: SpatialData) -> None:
    """Name the cell of every nucleus in the column `parent`, and remove nuclei of cells that were left out."""
    nuclei = sdata.shapes[NUCLEUS_POLYGONS]
    nuclei[PARENT] = nuclei.get("cell_id", nuclei.index)
    nuclei = nuclei[nuclei[PARENT].isin(sdata.shapes[CELL_POLYGONS].index)]
    nuclei.index.name = None
    sdata.shapes[NUCLEUS_POLYGONS] = nuclei.drop(columns="cell_id", errors="ignore")
