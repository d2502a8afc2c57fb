"""Reading of a slide in overlapping blocks of one pixel size, whatever the resolution of the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from deepspot._spatial.geometry import Boxes

from .tiles import level_sizes, read_tiles

if TYPE_CHECKING:
    from xarray import DataArray

# Pixels around a block that interpolation reads.
PAD = 4


def read_blocks(
    pyramid: list[DataArray], corners: np.ndarray, side: int, step: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Read blocks of `side` pixels, each `step` pixels of full resolution wide: number, and block (side, side, 3).

    `corners` (n, 2) are row and column of the first pixel of each block, in units of `step`, so that overlapping blocks
    have the same pixels. Reads the coarsest level that is fine enough. Pixels outside of the image are white.
    """
    from PIL import Image

    sizes = np.array(level_sizes(pyramid))
    factors = sizes[0] / sizes  # per axis: odd sizes are truncated when halved
    fine = np.flatnonzero(factors.max(axis=1) <= 1.02 * step)
    level = int(fine[-1]) if len(fine) else 0
    scale = step / factors[level]  # (2,) pixels of the level in one of the block
    first = corners * scale
    low = np.floor(first).astype(np.int64) - PAD
    boxes = Boxes(low, int(np.ceil(side * scale.max())) + 2 * PAD + 1, level)
    for rows, tiles in read_tiles(pyramid[level], boxes, batch_size=1):
        top, left = first[rows[0]] - low[rows[0]]
        box = (left, top, left + side * scale[1], top + side * scale[0])
        block = Image.fromarray(tiles[0]).resize((side, side), Image.Resampling.BICUBIC, box=box)
        yield int(rows[0]), np.asarray(block)
