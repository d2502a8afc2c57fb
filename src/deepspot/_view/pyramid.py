"""Image of the viewer: JPEG tiles of several levels, in the page as far as a size in bytes allows."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.hashing import digest
from deepspot._image.tiles import coarse_image, level_sizes, read_tiles
from deepspot._spatial.geometry import Boxes
from deepspot.errors import InputError

if TYPE_CHECKING:
    from xarray import DataArray

TILE, QUALITY = 512, 85
IN_MEMORY = 16 * 2**20
"""Pixels of the finest level that is made in memory as a whole. Finer levels are read tile by tile."""
# Levels are stored with a rounded size, so that their factors are not exactly 2, 4, 8.
INEXACT = 1.02
# A level has about four times the bytes of the next coarser one, and rarely less than three times.
LEAST_GROWTH = 3.0

Tiles = dict[tuple[int, int], str]


@dataclass(frozen=True)
class ImageLevel:
    """Tiles as base64 of JPEG, by column and row, of an image downscaled by a factor, and their number.

    A level without tiles in the page is stored in a folder, with the names that start with `files`. It is made of a
    level of the slide, of which squares of pixels are averaged.
    """

    factor: float
    columns: int
    rows: int
    tiles: Tiles
    files: str | None = None
    source: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Number of characters of the tiles in a page."""
        return sum(map(len, self.tiles.values())) + 80 * len(self.tiles)


def image_levels(pyramid: list[DataArray], budget: float) -> list[ImageLevel]:
    """Return the levels of an image that fit into this number of bytes, coarsest first.

    Each level has half of the pixels per side of the next one. Raises if the coarsest does not fit.
    """
    height, width = level_sizes(pyramid)[0]
    pixels, size = coarse_image(pyramid, 2.0 ** max(0, np.ceil(np.log2(height * width / IN_MEMORY) / 2)))
    factor = float(size[0])
    coarse = [_level(factor, pixels)]
    while max(pixels.shape[:2]) > TILE:
        pixels, factor = _halve(pixels), 2 * factor
        coarse.append(_level(factor, pixels))
    levels: list[ImageLevel] = []
    left = budget
    for level in reversed(coarse):
        if level.size > left:
            break
        levels.append(level)
        left -= level.size
    if not levels:
        raise InputError(
            f"An image of {max(pixels.shape[:2])} px does not fit beside the values of the genes. Increase `max_mb`, "
            "or pass fewer `genes`."
        )
    while len(levels) >= len(coarse) and (finer := _next(pyramid, levels[-1].factor)) is not None:
        if levels[-1].size * LEAST_GROWTH > left or (made := _fitting_level(pyramid, *finer, left)) is None:
            break
        levels.append(made)
        left -= made.size
    return levels


def finer_levels(pyramid: list[DataArray], levels: list[ImageLevel]) -> list[ImageLevel]:
    """Return the levels that are finer than those in the page, up to full resolution, without their tiles.

    Their names contain a digest of the image, so that the files of another slide are never shown for this one.
    """
    finer: list[ImageLevel] = []
    factor = levels[-1].factor
    image = digest("viewer", factor, *levels[0].tiles.values())[:12]
    while (source := _next(pyramid, factor)) is not None:
        factor, columns, rows = _layout(pyramid, *source)
        finer.append(ImageLevel(factor, columns, rows, {}, f"{image}-{len(levels) + len(finer)}", source))
    return finer


def write_levels(pyramid: list[DataArray], levels: list[ImageLevel], folder: Path) -> int:
    """Write the tiles of levels without tiles into a folder, one by one; return their size in bytes."""
    size = 0
    for level in levels:
        if level.source is None or level.files is None:
            continue
        (folder / level.files).mkdir(parents=True)
        for (column, row), jpeg in _read_level(pyramid, *level.source):
            (folder / level.files / f"{column}-{row}.jpg").write_bytes(jpeg)
            size += len(jpeg)
    return size


def _next(pyramid: list[DataArray], factor: float) -> tuple[int, int] | None:
    """Return the level of the image, and the pixels of it to average, for a level twice as fine; None without one."""
    sizes = level_sizes(pyramid)
    factors = [sizes[0][1] / width for _, width in sizes]
    if factor <= INEXACT:
        return None
    target = max(1.0, factor / 2) * INEXACT
    level = max(k for k, each in enumerate(factors) if each <= target)
    return level, max(1, int(target / factors[level]))


def _layout(pyramid: list[DataArray], level: int, step: int) -> tuple[float, int, int]:
    """Return the factor of a level of which squares of pixels are averaged, and its columns and rows of tiles."""
    sizes = level_sizes(pyramid)
    height, width = sizes[level]
    return sizes[0][1] / width * step, -(-width // (TILE * step)), -(-height // (TILE * step))


def _read_level(pyramid: list[DataArray], level: int, step: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield column and row of every tile of a level that is read tile by tile, and its JPEG."""
    height, width = level_sizes(pyramid)[level]
    side = TILE * step
    _, columns, rows = _layout(pyramid, level, step)
    corners = np.array([(row * side, column * side) for row in range(rows) for column in range(columns)])
    for chosen, batch in read_tiles(pyramid[level], Boxes(corners, side, level), batch_size=4 if step == 1 else 1):
        for place, pixels in zip(chosen, batch, strict=True):
            row, column = divmod(int(place), columns)
            inside = pixels[: height - row * side, : width - column * side]
            yield (column, row), _encode(_average(inside, step))


def _fitting_level(pyramid: list[DataArray], level: int, step: int, budget: float) -> ImageLevel | None:
    """Return a level that is read tile by tile; None once it is larger than the budget."""
    tiles: Tiles = {}
    used = 0
    for place, jpeg in _read_level(pyramid, level, step):
        tiles[place] = _as_text(jpeg)
        used += len(tiles[place]) + 80
        if used > budget:
            return None
    return ImageLevel(*_layout(pyramid, level, step), tiles)


def _level(factor: float, pixels: np.ndarray) -> ImageLevel:
    columns, rows = -(-pixels.shape[1] // TILE), -(-pixels.shape[0] // TILE)
    return ImageLevel(factor, columns, rows, {place: _as_text(_encode(tile)) for place, tile in _cut(pixels)})


def _cut(pixels: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield column and row of every tile of an image, and its pixels."""
    for row in range(0, pixels.shape[0], TILE):
        for column in range(0, pixels.shape[1], TILE):
            yield (column // TILE, row // TILE), pixels[row : row + TILE, column : column + TILE]


def _encode(pixels: np.ndarray) -> bytes:
    from PIL import Image

    content = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, format="JPEG", quality=QUALITY)
    return content.getvalue()


def _as_text(jpeg: bytes) -> str:
    return base64.b64encode(jpeg).decode("ascii")


def _halve(pixels: np.ndarray) -> np.ndarray:
    return _average(pixels, 2)


def _average(pixels: np.ndarray, step: int) -> np.ndarray:
    """Average squares of pixels (h, w, 3); the last row and column are repeated if they are incomplete."""
    if step == 1:
        return pixels
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % step), (0, -width % step), (0, 0)), mode="edge")
    squares = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step, 3)
    return np.round(squares.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
