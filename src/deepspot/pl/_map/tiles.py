"""Tiles of single spots for figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import DIAMETER, PARENT, UNS
from deepspot._core.validate import check_positive
from deepspot._image.tiles import level_sizes, pyramid_levels, read_tiles
from deepspot._sdata.view import known_diameter, noun_of
from deepspot._spatial.geometry import TileGeometry, make_boxes
from deepspot._spatial.transforms import place_spots
from deepspot.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

# Pixels per side; a tile is read from the coarsest level of the image that has at least as many.
PX = 160
BATCH = 64


def tile_side(sdata: SpatialData, table_key: str, shapes_key: str, tile_um: float | None) -> float:
    """Return the side of a tile in µm: as given, else the tile size of the model, else the spot diameter."""
    if tile_um is not None:
        return float(check_positive(tile_um, "tile_um"))
    features = sdata.tables[table_key].uns.get(UNS, {}).get("features")
    # Features belong to spots; sub-spots and grid points are shown at their diameter.
    if features in sdata.tables and PARENT not in sdata.shapes[shapes_key]:
        return float(sdata.tables[features].uns[UNS]["geometry"]["tile_um"])
    diameter = known_diameter(sdata, shapes_key)
    if diameter is None:
        raise InputError(
            f"The size of the {noun_of(sdata, shapes_key).many} of {shapes_key!r} is unknown: they have no column "
            f"{DIAMETER!r}. Pass the side of the images as `tile_um=`."
        )
    return diameter


def cut_tiles(
    sdata: SpatialData, image_key: str, shapes_key: str, positions: Sequence[int] | np.ndarray, tile_um: float
) -> np.ndarray:
    """Read the tiles (n, side, side, 3) of the shapes at these positions from an image."""
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
    """Draw a tile at a center, with width and height in the units of the axes; set their limits first."""
    (x, y), (width, height) = center, side
    extent = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
    ax.imshow(tile, extent=extent, interpolation="antialiased", aspect="auto", zorder=2)
