"""The only file that touches pixels. Boxes become padded uint8 tiles, each image block decoded once."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.settings import settings
from deepspot._spatial.geometry import Boxes
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

GLASS = 255
"""Beyond the border of a slide there is glass: white."""

LARGE_BLOCK = 256 * 2**20
AT_ONCE, HELD = 64 * 2**20, 256 * 2**20
"""Bytes of image blocks that are decoded together, and that are kept for tiles to come."""

EXACT_FINGERPRINT = 2**30
SQUARE = 1024
PATCH, PATCHES = 64, 256
FEW = 4
# Averaging 3 × 3 of the pixels that are kept is enough to draw without moiré, and much faster than averaging all.
AVERAGED = 3
# Levels of odd sizes are cut when halved, so that the pixels of a fourth level are 8.003 wide.
ODD = 1.02


def pyramid_levels(sdata: SpatialData, image_key: str) -> list[DataArray]:
    """Resolution levels of an RGB uint8 image, full resolution first, each with dimensions (c, y, x)."""
    pyramid = _pyramid(sdata, image_key)
    if not is_rgb(sdata, image_key):
        raise InputError(
            f"Image {image_key!r} must be RGB in uint8, got {pyramid[0].sizes.get('c')} channels of {pyramid[0].dtype}."
            " Select the three colors with `.sel(c=[...])`, rescale to 0–255, and parse it with "
            "`spatialdata.models.Image2DModel.parse`."
        )
    return [level.transpose("c", "y", "x") for level in pyramid]


def _pyramid(sdata: SpatialData, image_key: str) -> list[DataArray]:
    from spatialdata import get_pyramid_levels
    from xarray import DataTree

    image = sdata.images[image_key]
    return get_pyramid_levels(image) if isinstance(image, DataTree) else [image]


def is_rgb(sdata: SpatialData, image_key: str) -> bool:
    """Whether an image is one that tiles can be read from: RGB in uint8."""
    finest = _pyramid(sdata, image_key)[0]
    return finest.sizes.get("c") == 3 and finest.dtype == np.uint8


def image_size(sdata: SpatialData, image_key: str) -> tuple[int, int]:
    """Height and width of the full resolution of an image of any kind."""
    return level_sizes(_pyramid(sdata, image_key))[0]


def level_sizes(pyramid: list[DataArray]) -> list[tuple[int, int]]:
    """Height and width of every level."""
    return [(level.sizes["y"], level.sizes["x"]) for level in pyramid]


def read_tiles(
    level: DataArray, boxes: Boxes, batch_size: int, *, in_order: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the tiles of boxes: rows of the boxes (b,) and tiles (b, side, side, 3) in uint8, `batch_size` at a time.

    The boxes were made for this level; what lies outside of it is white. Tiles come in the order in which the image is
    stored, or `in_order` of the boxes, of which those that follow each other should lie close together.
    """
    blocks = _Blocks(level, boxes, in_order=in_order)
    for start in range(0, len(blocks.order), batch_size):
        rows = blocks.order[start : start + batch_size]
        yield rows, blocks.cut(rows)


def shrink(level: DataArray, first: np.ndarray, last: np.ndarray, max_px: int) -> tuple[np.ndarray, int]:
    """Cut out a part of a level and scale it down to draw it.

    From the pixel `first` (x, y) up to, but without, `last`, to at most `max_px` along the longer side, which may be
    exceeded by half. Returns pixels (h, w, 3) in uint8, and how many pixels of the level one of them is wide.
    """
    step = max(1, int((last - first).max() / max_px))
    stride = max(1, step // AVERAGED)
    block = max(1, min(step // stride, *((last - first) // stride)))
    part = level.isel(x=slice(first[0], last[0], stride), y=slice(first[1], last[1], stride))
    small = np.asarray(part.coarsen(x=block, y=block, boundary="trim").mean().data) if block > 1 else part.to_numpy()
    return np.round(small).astype(np.uint8).transpose(1, 2, 0), block * stride


def coarse_image(pyramid: list[DataArray], factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Make a small image of a whole slide, for which no more than a block and the small image are in memory.

    Of the levels, full resolution first, it averages the coarsest one that is fine enough for about `factor` pixels of
    full resolution, or fewer, to go into one along a side. Returns pixels (h, w, 3) in uint8, and how many pixels of
    full resolution (2,) each is wide and high.
    """
    full = np.array(level_sizes(pyramid))
    factors = full[0] / full
    limit = max(factor, 1) * ODD
    fine = np.flatnonzero(factors.max(axis=1) <= limit)
    level, factors = pyramid[fine[-1]], factors[fine[-1]]
    step = int(limit / factors.max())
    return _average(level, step), factors[::-1] * step


def _average(level: DataArray, step: int) -> np.ndarray:
    """Average squares of `step` × `step` pixels (h, w, 3), rounded to uint8; those at the far borders may be cut."""
    height, width = level.sizes["y"], level.sizes["x"]
    data, (down, across) = _in_blocks(level)
    small = np.empty((-(-height // step), -(-width // step), 3), dtype=np.uint8)
    wide = np.diff(np.append(np.arange(0, width, step), width)).astype(np.uint32)[:, None]
    # Squares may lie in several blocks: sums of a row of them wait until the blocks below have been read.
    waiting = np.empty((0, small.shape[1], 3), dtype=np.uint32)
    for row, (y0, y1) in enumerate(pairwise(down)):
        first, last = y0 // step, -(-y1 // step)
        sums = np.zeros((last - first, *small.shape[1:]), dtype=np.uint32)
        sums[: len(waiting)] = waiting
        for column, (x0, x1) in enumerate(pairwise(across)):
            pixels = _decode(data, [(row, column)])[0].transpose(1, 2, 0)
            sums[:, x0 // step : -(-x1 // step)] += _sum(_sum(pixels, y0, y1, step, 0), x0, x1, step, 1)
        waiting = sums[-1:].copy() if y1 % step else waiting[:0]
        high = np.diff(np.minimum(np.arange(first, last + 1) * step, height)).astype(np.uint32)
        count = high[:, None, None] * wide
        sums += count // 2  # rounds, without copies in floating point
        sums //= count
        small[first:last] = sums
    return small


def _sum(pixels: np.ndarray, first: int, last: int, step: int, axis: int) -> np.ndarray:
    """Sum the pixels from `first` to `last` of an image by the square that they belong to."""
    starts = np.append(first, np.arange((first // step + 1) * step, last, step)) - first
    return np.add.reduceat(pixels, starts, axis=axis, dtype=np.uint32)


def image_fingerprint(level: DataArray, boxes: Boxes) -> str:
    """Content hash of a level: of all its pixels up to 1 GB, beyond that of patches in up to 256 of the tiles."""
    height, width = level.sizes["y"], level.sizes["x"]
    if level.nbytes <= EXACT_FINGERPRINT:
        # In squares of one size, so that neither memory nor the hash depends on how the image is stored.
        corners = [(y, x) for y in range(0, height, SQUARE) for x in range(0, width, SQUARE)]
        side = SQUARE
    else:
        some = np.linspace(0, len(boxes.corners) - 1, min(len(boxes.corners), PATCHES)).astype(int)
        corners = [(y, x) for y, x in np.clip(boxes.corners[some], 0, (height - PATCH, width - PATCH))]
        side = PATCH
    squares = [""] * len(corners)
    for rows, tiles in read_tiles(level, Boxes(np.array(corners), side, 0), FEW):
        for row, tile in zip(rows, tiles, strict=True):
            y, x = corners[row]
            squares[row] = digest(tile[: height - y, : width - x].transpose(2, 0, 1))
    return digest(list(level.shape), squares)


class _Blocks:
    """Decoded blocks of an image, each kept for as long as a tile still needs it, and there is room."""

    def __init__(self, level: DataArray, boxes: Boxes, *, in_order: bool = False) -> None:
        self.boxes = boxes
        self.data, self.edges = _in_blocks(level)
        first, last = self._blocks_at(boxes.corners), self._blocks_at(boxes.corners + boxes.side - 1)
        self.needs = [
            [(r, c) for r in range(a[0], b[0] + 1) for c in range(a[1], b[1] + 1)]
            for a, b in zip(first.tolist(), last.tolist(), strict=True)
        ]
        self.left = Counter(block for blocks in self.needs for block in blocks)
        self.order = np.arange(len(first)) if in_order else np.lexsort((first[:, 1], first[:, 0]))
        self.cache: dict[tuple[int, int], np.ndarray] = {}

    def _blocks_at(self, pixels: np.ndarray) -> np.ndarray:
        """Row and column of the blocks that hold pixels (n, 2), or lie nearest to them."""
        inside = np.clip(pixels, 0, [edges[-1] - 1 for edges in self.edges])
        found = [np.searchsorted(edges, at, side="right") - 1 for edges, at in zip(self.edges, inside.T, strict=True)]
        return np.column_stack(found)

    def cut(self, rows: np.ndarray) -> np.ndarray:
        """Tiles of some of the boxes (b, side, side, 3)."""
        side = self.boxes.side
        tiles = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        corners = self.boxes.corners[rows]
        size = np.array([edges[-1] for edges in self.edges])
        tiles[((corners < 0) | (corners + side > size)).any(axis=1)] = GLASS
        for at, row in enumerate(rows):
            if not self.cache.keys() >= set(self.needs[row]):
                self._decode(rows[at:])
            self._paste(row, tiles[at])
        return tiles

    def _decode(self, rows: np.ndarray) -> None:
        """Decode what the first of some boxes needs, and with it what others do: far ones do not fill the memory."""
        size = _largest(self.edges)
        for block in list(self.cache)[: max(0, len(self.cache) - HELD // size)]:
            del self.cache[block]
        missing: dict[tuple[int, int], None] = {}
        for row in rows:
            more = missing | dict.fromkeys(block for block in self.needs[row] if block not in self.cache)
            if missing and len(more) * size > AT_ONCE:
                break
            missing = more
        self.cache.update(zip(missing, _decode(self.data, list(missing)), strict=True))

    def _paste(self, row: int, tile: np.ndarray) -> None:
        top, left = self.boxes.corners[row]
        for block in self.needs[row]:
            pixels, (y, x) = self.cache.pop(block), (self.edges[0][block[0]], self.edges[1][block[1]])
            y0, y1 = max(top, y), min(top + self.boxes.side, y + pixels.shape[1])
            x0, x1 = max(left, x), min(left + self.boxes.side, x + pixels.shape[2])
            if y0 < y1 and x0 < x1:
                there = pixels[:, y0 - y : y1 - y, x0 - x : x1 - x]
                for color in range(3):  # one at a time: four times as fast as all three, which lie far apart
                    tile[y0 - top : y1 - top, x0 - left : x1 - left, color] = there[color]
            self.left[block] -= 1
            if self.left[block]:
                self.cache[block] = pixels  # to the end: those at the front were used longest ago


def _decode(data: Any, blocks: list[tuple[int, int]]) -> list[np.ndarray]:
    """Pixels (3, height, width) of blocks, in threads of this process and in one go.

    To slice a dask array costs more than to decode a small block, and within a Dask worker pixels would be sent to the
    cluster.
    """
    from dask import threaded

    channels = len(data.chunks[0])
    keys = [(data.name, channel, *block) for block in blocks for channel in range(channels)]
    parts = threaded.get(data.__dask_optimize__(data.__dask_graph__(), keys), keys, num_workers=settings.workers)
    if channels == 1:
        return [np.asarray(part) for part in parts]
    return [np.concatenate(parts[at : at + channels]) for at in range(0, len(parts), channels)]


def _in_blocks(level: DataArray) -> tuple[Any, list[np.ndarray]]:
    """Pixels as a dask array, and where its blocks begin and end along y and x."""
    import dask.array as da

    data = level.data
    if not hasattr(data, "chunks"):
        data = da.from_array(data, chunks=(-1, 2 * SQUARE, 2 * SQUARE), name=False)
    edges = [np.concatenate([[0], np.cumsum(data.chunks[axis])]) for axis in (1, 2)]
    if _largest(edges) > LARGE_BLOCK:
        warnings.warn(
            f"The image is stored in blocks of up to {_largest(edges) / 2**20:.0f} MB, each of which has to be in "
            "memory. Store it in smaller ones: `Image2DModel.parse(image, chunks=(3, 2048, 2048))` and write it to "
            "zarr.",
            stacklevel=4,
        )
    return data, edges


def _largest(edges: list[np.ndarray]) -> int:
    """Bytes of the largest block."""
    return 3 * int(np.diff(edges[0]).max()) * int(np.diff(edges[1]).max())
