"""Spots and their table are laid over an image, which is read when it is needed if its file allows that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import DIAMETER, LINK
from deepspot._core.logging import logger
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.write import make_table
from deepspot._spatial.boxes import check_inside
from deepspot._spatial.transforms import scaling, write_scale
from deepspot.io._image import CHUNK, load_image

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

REGION = "spots"
FEW = 0.05


def open_image(path: Path, name: str, mpp: float) -> SpatialData:
    """Open an image of known scale: a tiled TIFF block by block, any other file as a whole."""
    from deepspot.io import slide

    return slide(path, mpp=mpp, name=name) if _is_tiled(path) else image_of(load_image(path), name)


def image_of(pixels: np.ndarray, name: str, *, shrunk: float = 1.0) -> SpatialData:
    """Make an object of an image (h, w, 3) that has `shrunk` times fewer pixels along a side than the slide."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel

    parsed = Image2DModel.parse(
        pixels.transpose(2, 0, 1), dims=("c", "y", "x"), c_coords=["r", "g", "b"], chunks=(3, CHUNK, CHUNK),
        transformations={"global": scaling(shrunk)},
    )  # fmt: skip
    return SpatialData(images={f"{name}_image": parsed})


def inside(sdata: SpatialData, centers: np.ndarray, sample: str) -> np.ndarray:
    """Which spots (n,) lie in the only image: all, or all but a few, which are said to be left out."""
    key = next(iter(sdata.images))
    height, width = size = level_sizes(pyramid_levels(sdata, key))[0]
    kept = np.all((centers >= 0) & (centers <= (width, height)), axis=1)
    if (~kept).sum() > FEW * len(kept):
        check_inside(centers, size, f"image {key!r}")
    if not kept.all():
        logger.warning("%d of %d spots of %s lie outside its image and are left out.", (~kept).sum(), len(kept), sample)
    return kept


def add_spots(
    sdata: SpatialData,
    table: AnnData,
    centers: np.ndarray,
    *,
    mpp: float,
    diameter_um: float,
    table_key: str = "table",
) -> None:
    """Add circles, the table that describes them, and the scale.

    Parameters
    ----------
    sdata
        With an image in the coordinate system "global", or empty.
    table
        A row for each spot.
    centers
        (n, 2) x and y in pixels of the full-resolution image.
    mpp
        µm per such pixel.
    diameter_um
        Diameter of the tissue that a spot stands for.
    table_key
        Name of the table.
    """
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    circles = ShapesModel.parse(
        centers, geometry=0, radius=diameter_um / mpp / 2, index=np.arange(len(centers)),
        transformations={"global": Identity()},
    )  # fmt: skip
    circles[DIAMETER] = float(diameter_um)
    region_key, instance_key = (key if key not in table.obs else f"deepspot_{key}" for key in LINK)
    fields: dict[str, Any] = {"varm": dict(table.varm), "uns": dict(table.uns)}
    made = make_table(
        table.X, region=REGION, instances=circles.index, region_key=region_key, instance_key=instance_key,
        obs=table.obs, var=table.var, obsm={"spatial": centers}, **fields,
    )  # fmt: skip
    sdata.shapes[REGION] = circles
    sdata.tables[table_key] = made
    write_scale(sdata, REGION, mpp)


def _is_tiled(path: Path) -> bool:
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.pages.first.is_tiled)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damaged files raise anything
        raise ValueError(f"{path} is damaged or no TIFF ({error}). Get it again.") from error
