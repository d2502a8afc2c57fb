"""Images of single spots, at the size that the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import DIAMETER, PARENT, UNS
from deepspot._core.validate import check_positive
from deepspot._image.tiles import level_sizes, pyramid_levels, read_tiles
from deepspot._sdata.view import known_diameter
from deepspot._spatial.geometry import TileGeometry, make_boxes
from deepspot._spatial.transforms import place_spots
from deepspot.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

# Enough for a thumbnail; a tile is read from the coarsest level of the image that has as many.
PX = 160
BATCH = 64


def tile_side(sdata: SpatialData, table_key: str, shapes_key: str, tile_um: float | None) -> float:
    """Side of a spot's tile in µm: as stated, else what the model behind a table saw, else the spot's diameter."""
    if tile_um is not None:
        return float(check_positive(tile_um, "tile_um"))
    features = sdata.tables[table_key].uns.get(UNS, {}).get("features")
    # Features belong to spots: what was predicted for parts of them is shown at the size of the part.
    if features in sdata.tables and PARENT not in sdata.shapes[shapes_key]:
        return float(sdata.tables[features].uns[UNS]["geometry"]["tile_um"])
    known = known_diameter(sdata, shapes_key)
    if known is None:
        raise InputError(
            f"The size of the spots of {shapes_key!r} is unknown: they have no column {DIAMETER!r}. State how "
            "much tissue to show with `tile_um=`."
        )
    return known


def cut_tiles(
    sdata: SpatialData, image_key: str, shapes_key: str, positions: Sequence[int] | np.ndarray, tile_um: float
) -> np.ndarray:
    """Cut tiles (n, side, side, 3) of the shapes at some positions out of an image, in that order."""
    placement = place_spots(sdata, image_key, shapes_key)
    pyramid = pyramid_levels(sdata, image_key)
    geometry, name = TileGeometry(tile_um=tile_um, input_px=PX, grid=1), f"image {image_key!r}"
    boxes = make_boxes(placement.centers[positions], placement.mpp, level_sizes(pyramid), geometry, name=name)
    tiles = np.empty((len(boxes.corners), boxes.side, boxes.side, 3), dtype=np.uint8)
    for rows, pixels in read_tiles(pyramid[boxes.level], boxes, BATCH):
        tiles[rows] = pixels
    return tiles


def draw_tile(
    ax: Axes, tile: np.ndarray, center: Sequence[float] | np.ndarray, side: Sequence[float] | np.ndarray
) -> None:
    """Draw a tile around a point, with a width and a height in the units of the axes, whose limits must be set."""
    (x, y), (width, height) = center, side
    extent = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
    ax.imshow(tile, extent=extent, interpolation="antialiased", aspect="auto", zorder=2)
