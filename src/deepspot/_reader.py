"""Door 2: the only file that touches pixels. Boxes become padded uint8 tiles, each image block decoded once."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ._boxes import Boxes
from ._fingerprint import digest

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

GLASS = 255
"""Beyond the border of a slide there is glass: white."""

LARGE_BLOCK = 256 * 2**20
EXACT_FINGERPRINT = 2**30
SQUARE = 1024
PATCH, PATCHES = 64, 256
# Averaging 3 × 3 of the pixels that are kept is enough to draw without moiré, and much faster than averaging all.
AVERAGED = 3
# Levels of odd sizes are cut when halved, so that the pixels of a fourth level are 8.003 wide.
ODD = 1.02


def levels(sdata: SpatialData, image_key: str) -> list[DataArray]:
    """Resolution levels of an RGB uint8 image, full resolution first, each with dimensions (c, y, x)."""
    image: Any = sdata.images[image_key]
    # A pyramid is a tree of levels; a plain image is an array.
    pyramid = [image[name]["image"] for name in image] if hasattr(image, "children") else [image]
    finest = pyramid[0]
    if finest.sizes.get("c") != 3 or finest.dtype != np.uint8:
        raise ValueError(
            f"Image {image_key!r} must be RGB in uint8, got {finest.sizes.get('c')} channels of {finest.dtype}. "
            "Select the three colours with `.sel(c=[...])`, rescale to 0–255, and parse it with "
            "`spatialdata.models.Image2DModel.parse`."
        )
    return [level.transpose("c", "y", "x") for level in pyramid]


def sizes(pyramid: list[DataArray]) -> list[tuple[int, int]]:
    """Height and width of every level."""
    return [(level.sizes["y"], level.sizes["x"]) for level in pyramid]


def read(level: DataArray, boxes: Boxes, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the tiles of boxes, in the order in which the image is stored.

    Parameters
    ----------
    level
        The level that the boxes were made for.
    boxes
        What to read. What lies outside the image is white.
    batch_size
        Tiles in a batch.

    Yields
    ------
    Rows of the boxes (b,) and their tiles (b, side, side, 3) in uint8.
    """
    blocks = _Blocks(level, boxes)
    for start in range(0, len(blocks.order), batch_size):
        rows = blocks.order[start : start + batch_size]
        tiles = np.full((len(rows), boxes.side, boxes.side, 3), GLASS, dtype=np.uint8)
        for tile, row in zip(tiles, rows, strict=True):
            blocks.paste(row, tile)
        yield rows, tiles


def shrink(level: DataArray, first: np.ndarray, last: np.ndarray, max_px: int) -> tuple[np.ndarray, int]:
    """Cut out a part of a level and scale it down to draw it.

    Parameters
    ----------
    level
        The level.
    first, last
        x and y of the first pixel, and of the one behind the last.
    max_px
        Limit of the longer side; it may be exceeded by half.

    Returns
    -------
    Pixels (h, w, 3) in uint8, and how many pixels of the level went into one of them, along a side.
    """
    step = max(1, int((last - first).max() / max_px))
    stride = max(1, step // AVERAGED)
    block = max(1, min(step // stride, *((last - first) // stride)))
    part = level.isel(x=slice(first[0], last[0], stride), y=slice(first[1], last[1], stride))
    small = np.asarray(part.coarsen(x=block, y=block, boundary="trim").mean().data) if block > 1 else part.to_numpy()
    return np.round(small).astype(np.uint8).transpose(1, 2, 0), block * stride


def coarse(pyramid: list[DataArray], factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Make a small image of a whole slide, for which no more than a block and the small image are in memory.

    Parameters
    ----------
    pyramid
        Levels, full resolution first.
    factor
        About so many pixels of full resolution, along a side, go into one of the small image, or fewer.

    Returns
    -------
    Pixels (h, w, 3) in uint8, averaged from the coarsest level that is fine enough, and how many pixels of full
    resolution (2,) each is wide and high.
    """
    full = np.array(sizes(pyramid))
    factors = full[0] / full
    limit = max(factor, 1) * ODD
    fine = np.flatnonzero(factors.max(axis=1) <= limit)
    level, factors = pyramid[fine[-1]], factors[fine[-1]]
    step = int(limit / factors.max())
    return _average(level, step), factors[::-1] * step


def _average(level: DataArray, step: int) -> np.ndarray:
    """Average squares of `step` × `step` pixels (h, w, 3), rounded to uint8; those at the far borders may be cut."""
    height, width = level.sizes["y"], level.sizes["x"]
    down, across = (_edges(level.data, axis, SQUARE) for axis in (1, 2))
    _warn_large(level.data, [down, across])
    small = np.empty((-(-height // step), -(-width // step), 3), dtype=np.uint8)
    wide = np.diff(np.append(np.arange(0, width, step), width)).astype(np.uint32)[:, None]
    # Squares may lie in several blocks: sums of a row of them wait until the blocks below have been read.
    waiting = np.zeros((1, small.shape[1], 3), dtype=np.uint32)
    for y0, y1 in pairwise(down):
        first, last = y0 // step, (y1 - 1) // step
        sums = np.zeros((last - first + 1, *small.shape[1:]), dtype=np.uint32)
        if y0 % step:
            sums[:1] = waiting
        for x0, x1 in pairwise(across):
            pixels = _decode(level.data[:, y0:y1, x0:x1]).transpose(1, 2, 0)
            by_row = _sum(pixels, y0, y1, step, 0)
            sums[:, x0 // step : (x1 - 1) // step + 1] += _sum(by_row, x0, x1, step, 1)
        waiting = sums[-1:].copy()
        edges = np.minimum(np.arange(first, last + 2) * step, height)
        count = np.diff(edges).astype(np.uint32)[:, None, None] * wide
        sums += count // 2  # rounds, without copies in floating point
        sums //= count
        small[first : last + 1] = sums
    return small


def _sum(pixels: np.ndarray, first: int, last: int, step: int, axis: int) -> np.ndarray:
    """Sum the pixels from `first` to `last` of an image by the square that they belong to."""
    starts = np.append(first, np.arange((first // step + 1) * step, last, step)) - first
    return np.add.reduceat(pixels, starts, axis=axis, dtype=np.uint32)


def fingerprint(level: DataArray, boxes: Boxes) -> str:
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
    return digest(list(level.shape), [digest(_decode(level.data[:, y : y + side, x : x + side])) for y, x in corners])


def _decode(part: Any) -> np.ndarray:
    """Pixels of a part of an image, in this thread: within a Dask worker they would be sent to the cluster else."""
    return np.asarray(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)


class _Blocks:
    """Decoded blocks of an image, each kept for as long as a tile still needs it."""

    def __init__(self, level: DataArray, boxes: Boxes) -> None:
        self.data = level.data
        self.boxes = boxes
        self.edges = [_edges(self.data, axis) for axis in (1, 2)]
        _warn_large(self.data, self.edges)
        first, last = self._touched()
        self.needs = [
            [(r, c) for r in range(a[0], b[0] + 1) for c in range(a[1], b[1] + 1)]
            for a, b in zip(first, last, strict=True)
        ]
        self.left = Counter(block for blocks in self.needs for block in blocks)
        self.order = np.lexsort((first[:, 1], first[:, 0]))
        self.cache: dict[tuple[int, int], np.ndarray] = {}

    def _touched(self) -> tuple[np.ndarray, np.ndarray]:
        def block(position: np.ndarray, axis: int) -> np.ndarray:
            edges = self.edges[axis]
            return np.searchsorted(edges, np.clip(position, 0, edges[-1] - 1), side="right") - 1

        corners, far = self.boxes.corners, self.boxes.corners + self.boxes.side - 1
        return tuple(np.column_stack([block(at[:, 0], 0), block(at[:, 1], 1)]) for at in (corners, far))  # type: ignore[return-value]

    def paste(self, row: int, tile: np.ndarray) -> None:
        top, left = self.boxes.corners[row]
        for block in self.needs[row]:
            pixels, (y, x) = self._decode(block), (self.edges[0][block[0]], self.edges[1][block[1]])
            y0, y1 = max(top, y), min(top + self.boxes.side, y + pixels.shape[0])
            x0, x1 = max(left, x), min(left + self.boxes.side, x + pixels.shape[1])
            if y0 < y1 and x0 < x1:
                tile[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
            self.left[block] -= 1
            if not self.left[block]:
                del self.cache[block]

    def _decode(self, block: tuple[int, int]) -> np.ndarray:
        if block not in self.cache:
            (y0, y1), (x0, x1) = (self.edges[axis][block[axis] : block[axis] + 2] for axis in (0, 1))
            self.cache[block] = _decode(self.data[:, y0:y1, x0:x1]).transpose(1, 2, 0)
        return self.cache[block]


def _edges(data: Any, axis: int, in_memory: int | None = None) -> np.ndarray:
    """Where the blocks of an image begin and end; an image in memory is one, or cut into squares of a side."""
    if hasattr(data, "chunks"):
        return np.concatenate([[0], np.cumsum(data.chunks[axis])])
    return np.append(np.arange(0, data.shape[axis], in_memory or data.shape[axis]), data.shape[axis])


def _warn_large(data: Any, edges: list[np.ndarray]) -> None:
    block = 3 * int(np.diff(edges[0]).max()) * int(np.diff(edges[1]).max())
    if hasattr(data, "chunks") and block > LARGE_BLOCK:
        warnings.warn(
            f"The image is stored in blocks of up to {block / 2**20:.0f} MB, each of which has to be in memory. "
            "Store it in smaller ones: `Image2DModel.parse(image, chunks=(3, 2048, 2048))` and write it to zarr.",
            stacklevel=4,
        )
