"""Reading of pixels: the only file that does. Boxes become padded uint8 tiles; each image block is decoded once."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.settings import settings
from deepspot._spatial.geometry import Boxes, same_aspect
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

# Side of the squares in which an image is hashed; if it is in memory, it is read in blocks of twice this side.
SQUARE = 1024


def pyramid_levels(sdata: SpatialData, image_key: str) -> list[DataArray]:
    """Return the levels of an RGB uint8 image, full resolution first, each with dimensions (c, y, x)."""
    pyramid = _all_levels(sdata, image_key)
    finest = pyramid[0]
    if finest.sizes.get("c") != 3 or finest.dtype != np.uint8:
        raise InputError(
            f"Image {image_key!r} must be RGB in uint8, got {finest.sizes.get('c')} channels of {finest.dtype}."
            " Select the three colors with `.sel(c=[...])`, rescale to 0–255, and parse it with "
            "`spatialdata.models.Image2DModel.parse`."
        )
    order = _rgb_order(finest)
    if order is None:
        raise InputError(
            f"Image {image_key!r} must be RGB, got the channels {finest.coords['c'].to_numpy().tolist()}. Choose an "
            f"H&E image; if this is one, name its channels: `sdata.set_channel_names({image_key!r}, ['r', 'g', 'b'])`."
        )
    # A photo of the glass may be stored as if it was a level.
    full = level_sizes(pyramid)[0]
    levels = [
        level.transpose("c", "y", "x").rename(image_key)
        for level in pyramid
        if same_aspect(full, (level.sizes["y"], level.sizes["x"]))
    ]
    return levels if order == [0, 1, 2] else [level.isel(c=order) for level in levels]


def is_rgb(sdata: SpatialData, image_key: str) -> bool:
    """Check whether tiles can be read from an image: RGB in uint8."""
    finest = _all_levels(sdata, image_key)[0]
    return finest.sizes.get("c") == 3 and finest.dtype == np.uint8 and _rgb_order(finest) is not None


COLORS = {"r": 0, "red": 0, "g": 1, "green": 1, "b": 2, "blue": 2}


def _rgb_order(level: DataArray) -> list[int] | None:
    """Return the positions of red, green and blue among three channels, or None if the names are those of others.

    Channels that have only numbers, or no names, are in this order if the numbers are. Reversed numbers are those of an
    image that was reordered, from which or to which order is unknown.
    """
    names = [str(name).strip().lower() for name in level.coords["c"].to_numpy()] if "c" in level.coords else []
    if all(re.fullmatch(r"(c|ch|channel)?[\d\W_]*", name) for name in names):
        numbers = [[int(number) for number in re.findall(r"\d+", name)] for name in names]
        return [0, 1, 2] if numbers == sorted(numbers) else None
    colors = [COLORS.get(name, -1) for name in names]
    return [colors.index(color) for color in range(3)] if sorted(colors) == [0, 1, 2] else None


def image_size(sdata: SpatialData, image_key: str) -> tuple[int, int]:
    """Return the height and width of any image at full resolution."""
    return level_sizes(_all_levels(sdata, image_key))[0]


def _all_levels(sdata: SpatialData, image_key: str) -> list[DataArray]:
    from spatialdata import get_pyramid_levels
    from xarray import DataTree

    image = sdata.images[image_key]
    return get_pyramid_levels(image) if isinstance(image, DataTree) else [image]


def level_sizes(pyramid: list[DataArray]) -> list[tuple[int, int]]:
    """Return the height and width of every level."""
    return [(level.sizes["y"], level.sizes["x"]) for level in pyramid]


def read_tiles(
    level: DataArray, boxes: Boxes, batch_size: int, *, in_order: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read tiles in batches: rows of the boxes (b,) and tiles (b, side, side, 3) in uint8.

    The boxes belong to this level; pixels outside of it are white. The order is that in which the image is stored or,
    with `in_order`, that of the boxes, which is efficient if successive boxes are close to each other.
    """
    reader = BlockReader(level, boxes, in_order=in_order)
    for start in range(0, len(reader.order), batch_size):
        rows = reader.order[start : start + batch_size]
        yield rows, reader.read(rows)


BACKGROUND = 255
BATCH_BYTES, CACHE_BYTES = 64 * 2**20, 256 * 2**20
"""Image blocks that are decoded in one call, and that are kept in memory for later tiles."""


class BlockReader:
    """Reader of tiles that keeps each decoded block in memory while tiles need it and there is room."""

    def __init__(self, level: DataArray, boxes: Boxes, *, in_order: bool = False) -> None:
        self.boxes, self.name = boxes, level.name
        self.data, self.edges = _in_blocks(level)
        first, last = self._blocks_at(boxes.corners), self._blocks_at(boxes.corners + boxes.side - 1)
        self.needed = [
            [(r, c) for r in range(a[0], b[0] + 1) for c in range(a[1], b[1] + 1)]
            for a, b in zip(first.tolist(), last.tolist(), strict=True)
        ]
        self.uses = Counter(block for blocks in self.needed for block in blocks)
        self.order = np.arange(len(first)) if in_order else np.lexsort((first[:, 1], first[:, 0]))
        self.cache: dict[tuple[int, int], np.ndarray] = {}

    def _blocks_at(self, pixels: np.ndarray) -> np.ndarray:
        """Return row and column of the blocks that contain pixels (n, 2), or are nearest to them."""
        inside = np.clip(pixels, 0, [edges[-1] - 1 for edges in self.edges])
        blocks = [np.searchsorted(edges, at, side="right") - 1 for edges, at in zip(self.edges, inside.T, strict=True)]
        return np.column_stack(blocks)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read the tiles (b, side, side, 3) of some of the boxes."""
        side = self.boxes.side
        tiles = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        corners = self.boxes.corners[rows]
        size = np.array([edges[-1] for edges in self.edges])
        tiles[((corners < 0) | (corners + side > size)).any(axis=1)] = BACKGROUND
        for at, row in enumerate(rows):
            if not self.cache.keys() >= set(self.needed[row]):
                self._load(rows[at:])
            self._paste(row, tiles[at])
        return tiles

    def _load(self, rows: np.ndarray) -> None:
        """Decode the blocks of the first box, and of the following ones while they fit into a batch."""
        size = _largest(self.edges)
        for block in list(self.cache)[: max(0, len(self.cache) - CACHE_BYTES // size)]:
            del self.cache[block]
        missing: dict[tuple[int, int], None] = {}
        for row in rows:
            more = missing | dict.fromkeys(block for block in self.needed[row] if block not in self.cache)
            if missing and len(more) * size > BATCH_BYTES:
                break
            missing = more
        with _reading(self.name):
            self.cache.update(zip(missing, _decode(self.data, list(missing)), strict=True))

    def _paste(self, row: int, tile: np.ndarray) -> None:
        top, left = self.boxes.corners[row]
        for block in self.needed[row]:
            pixels, (y, x) = self.cache.pop(block), (self.edges[0][block[0]], self.edges[1][block[1]])
            y0, y1 = max(top, y), min(top + self.boxes.side, y + pixels.shape[1])
            x0, x1 = max(left, x), min(left + self.boxes.side, x + pixels.shape[2])
            if y0 < y1 and x0 < x1:
                part = pixels[:, y0 - y : y1 - y, x0 - x : x1 - x]
                for color in range(3):  # four times as fast as all three, which are far apart in memory
                    tile[y0 - top : y1 - top, x0 - left : x1 - left, color] = part[color]
            self.uses[block] -= 1
            if self.uses[block]:
                self.cache[block] = pixels  # moves to the end: the least recently used is first


@contextmanager
def _reading(name: Hashable) -> Iterator[None]:
    """Raise errors of libraries as an OSError with the name of the image."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged files and stores raise many kinds of errors
        raise OSError(
            f"Pixels of image {name!r} cannot be read ({type(error).__name__}: {error}). Its file or store is damaged: "
            "copy or write it again."
        ) from error


def _decode(data: Any, blocks: list[tuple[int, int]]) -> list[np.ndarray]:
    """Decode blocks (3, height, width) in one call, in threads of this process.

    Slicing a dask array is slower than decoding a small block, and a Dask worker would send the pixels to the cluster.
    """
    from dask import threaded

    channels = len(data.chunks[0])
    keys = [(data.name, channel, *block) for block in blocks for channel in range(channels)]
    parts = threaded.get(data.__dask_optimize__(data.__dask_graph__(), keys), keys, num_workers=settings.workers)
    if channels == 1:
        return [np.asarray(part) for part in parts]
    return [np.concatenate(parts[at : at + channels]) for at in range(0, len(parts), channels)]


# Larger blocks cause a warning.
LARGE_BLOCK = 256 * 2**20


def _in_blocks(level: DataArray) -> tuple[Any, list[np.ndarray]]:
    """Return the pixels as a dask array, and the borders of its blocks along y and x."""
    import dask.array as da

    data = level.data
    if not hasattr(data, "chunks"):
        data = da.from_array(data, chunks=(-1, 2 * SQUARE, 2 * SQUARE), name=False)
    edges = [np.concatenate([[0], np.cumsum(data.chunks[axis])]) for axis in (1, 2)]
    if _largest(edges) > LARGE_BLOCK:
        warnings.warn(
            f"The image is stored in blocks of up to {_largest(edges) / 2**20:.0f} MB, which are held in memory "
            "as a whole. Store it in smaller ones: `Image2DModel.parse(image, chunks=(3, 2048, 2048))` and write it to "
            "zarr.",
            stacklevel=4,
        )
    return data, edges


def _largest(edges: list[np.ndarray]) -> int:
    """Return the bytes of the largest block."""
    return 3 * int(np.diff(edges[0]).max()) * int(np.diff(edges[1]).max())


def shrink(level: DataArray, first: np.ndarray, last: np.ndarray, max_px: int) -> tuple[np.ndarray, int]:
    """Return a downscaled part of a level for drawing, from pixel `first` (x, y) to `last` (excluded).

    The longer side has about `max_px` pixels, at most 1.5 times as many. Returns pixels (h, w, 3) in uint8, and the
    width of one of them in pixels of the level.
    """
    step = max(1, int((last - first).max() / max_px))
    stride = max(1, step // 3)  # averaging 3 × 3 pixels is enough against moiré, and much faster than averaging all
    block = max(1, min(step // stride, *((last - first) // stride)))
    part = level.isel(x=slice(first[0], last[0], stride), y=slice(first[1], last[1], stride))
    if block > 1:
        part = part.coarsen(x=block, y=block, boundary="trim").mean()
    with _reading(level.name):
        small = np.asarray(part.data)
    return np.round(small).astype(np.uint8).transpose(1, 2, 0), block * stride


def coarse_image(pyramid: list[DataArray], factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a downscaled image of a slide, with only one block and the result in memory.

    Averages the coarsest level of which a pixel covers at most about `factor` pixels of full resolution along a side.
    Returns pixels (h, w, 3) in uint8, and their width and height (2,) in pixels of full resolution.
    """
    sizes = np.array(level_sizes(pyramid))
    factors = sizes[0] / sizes
    limit = max(factor, 1) * 1.02  # odd sizes are truncated when halved: pixels of a fourth level are 8.003 wide
    fine = np.flatnonzero(factors.max(axis=1) <= limit)
    level, factors = pyramid[fine[-1]], factors[fine[-1]]
    step = int(limit / factors.max())
    return _average(level, step), factors[::-1] * step


def _average(level: DataArray, step: int) -> np.ndarray:
    """Average squares of `step` × `step` pixels (h, w, 3), rounded to uint8; the last row and column may be smaller."""
    height, width = level.sizes["y"], level.sizes["x"]
    data, (down, across) = _in_blocks(level)
    small = np.empty((-(-height // step), -(-width // step), 3), dtype=np.uint8)
    widths = np.diff(np.append(np.arange(0, width, step), width)).astype(np.uint32)[:, None]
    # A square may overlap several blocks: its sum is completed with the next row of blocks.
    open_row = np.empty((0, small.shape[1], 3), dtype=np.uint32)
    for row, (y0, y1) in enumerate(pairwise(down)):
        first, last = y0 // step, -(-y1 // step)
        sums = np.zeros((last - first, *small.shape[1:]), dtype=np.uint32)
        sums[: len(open_row)] = open_row
        for column, (x0, x1) in enumerate(pairwise(across)):
            with _reading(level.name):
                pixels = _decode(data, [(row, column)])[0].transpose(1, 2, 0)
            sums[:, x0 // step : -(-x1 // step)] += _sum(_sum(pixels, y0, y1, step, 0), x0, x1, step, 1)
        open_row = sums[-1:].copy() if y1 % step else open_row[:0]
        heights = np.diff(np.minimum(np.arange(first, last + 1) * step, height)).astype(np.uint32)
        count = heights[:, None, None] * widths
        sums += count // 2  # rounds without a floating point copy
        sums //= count
        small[first:last] = sums
    return small


def _sum(pixels: np.ndarray, first: int, last: int, step: int, axis: int) -> np.ndarray:
    """Sum the pixels from `first` to `last` along an axis by the square that they belong to."""
    starts = np.append(first, np.arange((first // step + 1) * step, last, step)) - first
    return np.add.reduceat(pixels, starts, axis=axis, dtype=np.uint32)


EXACT_FINGERPRINT = 2**30
PATCH, PATCHES = 64, 256


def image_fingerprint(level: DataArray, boxes: Boxes) -> str:
    """Return the content hash of a level: of all pixels up to 1 GB, otherwise of patches in up to 256 of the tiles."""
    if level.nbytes <= EXACT_FINGERPRINT:
        return digest(list(level.shape), _hash_squares(level))
    some = np.linspace(0, len(boxes.corners) - 1, min(len(boxes.corners), PATCHES)).astype(int)
    corners = np.clip(boxes.corners[some], 0, (level.sizes["y"] - PATCH, level.sizes["x"] - PATCH))
    patches = [""] * len(corners)
    for rows, tiles in read_tiles(level, Boxes(corners, PATCH, 0), batch_size=4):
        for row, tile in zip(rows, tiles, strict=True):
            patches[row] = digest(tile.transpose(2, 0, 1))
    return digest(list(level.shape), patches)


def _hash_squares(level: DataArray) -> list[str]:
    """Hash all pixels of a level in squares of one size, so that the hashes do not depend on its chunks."""
    import dask

    squares = _in_blocks(level)[0].rechunk((-1, SQUARE, SQUARE)).to_delayed().ravel()
    hashes = [dask.delayed(digest)(square) for square in squares]
    with _reading(level.name):
        return list(dask.compute(*hashes, scheduler="threads", num_workers=settings.workers))
