"""Quality of an image in squares of 50 µm: focus, folds, pen and background (arrays and pyramids only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.logging import bar

from .blocks import read_blocks
from .tiles import coarse_image, level_sizes
from .tissue import (
    MAX_SATURATION,
    MIN_STROKE_PX,
    PER_TILE,
    glass_color,
    saturation_and_ink,
    saturation_threshold,
    tile_means,
    without_ink,
    without_unscanned,
)

if TYPE_CHECKING:
    from xarray import DataArray

# Side of a square, and of a pixel in which focus is measured. A block has 20 × 20 squares.
SQUARE_UM, PX_UM, BLOCK = 50.0, 1.0, 20
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
# Limits of a square. All were chosen on two slides, see benchmarks/quality.py.
PALE = 0.5  # of the saturation of a tile with tissue: paler pixels are background
MIN_FOCUS, MAX_DARKNESS, MAX_PEN = 0.15, 1.25, 0.1
# Fewer adjacent squares are no region: fat and the border of tissue have single squares without detail.
MIN_SQUARES = 4

BLURRED, FOLDED, PEN = "blurred", "folded", "pen"
ARTIFACTS = (BLURRED, FOLDED, PEN)
MEASURES = ("focus", "darkness", "pen", "background")


@dataclass(frozen=True)
class QualityMap:
    """Measures of the squares (rows, columns) of a slide, float32; focus and darkness are NaN outside of tissue."""

    side: float  # of a square, in pixels of full resolution
    focus: np.ndarray  # variance of the Laplacian over its median in the tissue
    darkness: np.ndarray  # optical density over its 90th percentile in the tissue
    pen: np.ndarray  # share of the area
    background: np.ndarray  # share of the area

    def artifacts(self) -> dict[str, np.ndarray]:
        """Return which squares (rows, columns) show each artifact; a square has one at most."""
        pen = self.pen > MAX_PEN
        folded = _regions((self.darkness > MAX_DARKNESS) & ~pen)
        return {BLURRED: _regions((self.focus < MIN_FOCUS) & ~pen & ~folded), FOLDED: folded, PEN: pen}

    def outlines(self) -> dict[str, list]:
        """Return the outlines of the regions of each artifact, polygons in pixels of full resolution."""
        import shapely

        found = {}
        for name, shown in self.artifacts().items():
            row, column = np.nonzero(shown)
            squares = shapely.box(column, row, column + 1, row + 1)
            joined = shapely.get_parts(shapely.union_all(squares)) if len(squares) else squares
            found[name] = list(shapely.transform(joined, lambda xy: xy * self.side))
        return found

    def of_tiles(self, centers: np.ndarray, side: float) -> dict[str, np.ndarray]:
        """Return the mean of each measure (n,) over tiles; those of tissue are NaN for a tile without any.

        `centers` (n, 2) and `side` are in pixels of full resolution.
        """
        size = np.array([side, side]) / self.side
        at = np.clip(centers / self.side, 0, np.array(self.pen.shape)[::-1])
        found = {}
        for name in MEASURES:
            values = getattr(self, name)
            known = tile_means(np.isfinite(values).astype(np.float32), at, size)
            total = tile_means(np.nan_to_num(values), at, size)
            found[name] = np.divide(total, known, out=np.full(len(at), np.nan), where=known > 1e-6)
        return found


def quality_map(pyramid: list[DataArray], mpp: float, name: str) -> QualityMap:
    """Measure the quality of a slide. `mpp` is µm per pixel of full resolution, `name` that of the image in errors.

    Pen, background and darkness are measured in a downscaled image, and focus at 1 µm per pixel in blocks with tissue.
    """
    height, width = level_sizes(pyramid)[0]
    side = SQUARE_UM / mpp
    rgb, scale = coarse_image(pyramid, side / PER_TILE)
    shape = (int(np.ceil(height / side)), int(np.ceil(width / side)))
    centers, sides = (np.indices(shape).reshape(2, -1).T[:, ::-1] + 0.5) * side / scale, side / scale

    def squares(values: np.ndarray) -> np.ndarray:
        return tile_means(values, centers, sides).reshape(shape).astype(np.float32)

    saturation, core = saturation_and_ink(rgb)
    threshold = saturation_threshold(without_ink(saturation, core, float(sides.mean())), sides, name)
    from scipy.ndimage import maximum_filter

    ink = maximum_filter(core, MIN_STROKE_PX)
    pen = squares(ink.astype(np.float32))
    background = squares(((saturation < PALE * threshold) & ~ink).astype(np.float32))
    # As spots on tissue: a square of fat or loose tissue is mostly background.
    colored = np.sqrt(squares(np.where(ink, 0, np.minimum(saturation, MAX_SATURATION)) ** 2)) >= threshold
    tissue = colored & (pen < MAX_PEN)
    density = -np.log((without_unscanned(rgb) + np.float32(1)) / (glass_color(rgb) + 1)).mean(axis=2)
    darkness = np.where(tissue, squares(np.maximum(density, 0)), np.float32(np.nan))
    focus = np.where(tissue, _focus(pyramid, mpp, tissue), np.float32(np.nan))
    if tissue.any():
        darkness /= np.maximum(np.nanpercentile(darkness, 90), np.float32(1e-6))
    if np.isfinite(focus).any():
        focus /= np.maximum(np.nanmedian(focus), np.float32(1e-6))
    return QualityMap(side, focus, darkness, pen, background)


def _focus(pyramid: list[DataArray], mpp: float, tissue: np.ndarray) -> np.ndarray:
    """Return the variance of the Laplacian of luminance in squares (rows, columns); NaN in blocks without tissue.

    Squares that are partly outside of the image are NaN, too: its border is an edge.
    """
    from scipy.ndimage import laplace

    px = round(SQUARE_UM / PX_UM)
    focus = np.full(tissue.shape, np.nan, dtype=np.float32)
    first = [(r, c) for r in range(0, tissue.shape[0], BLOCK) for c in range(0, tissue.shape[1], BLOCK)]
    first = [(r, c) for r, c in first if tissue[r : r + BLOCK, c : c + BLOCK].any()]
    corners = np.array(first, dtype=np.int64).reshape(-1, 2) * px - 1
    with bar("Focus", total=len(first), unit="block") as shown:
        for number, block in read_blocks(pyramid, corners, BLOCK * px + 2, PX_UM / mpp):
            edges = laplace(block @ LUMINANCE)[1:-1, 1:-1]
            parts = edges.reshape(BLOCK, px, BLOCK, px).var(axis=(1, 3))
            (r, c), part = first[number], focus[first[number][0] :, first[number][1] :][:BLOCK, :BLOCK]
            focus[r : r + BLOCK, c : c + BLOCK] = parts[: part.shape[0], : part.shape[1]]
            shown.update()
    height, width = (int(size * mpp / SQUARE_UM) for size in level_sizes(pyramid)[0])
    focus[height:], focus[:, width:] = np.nan, np.nan
    return focus


def _regions(shown: np.ndarray) -> np.ndarray:
    """Keep the squares in groups of at least four adjacent ones."""
    from scipy.ndimage import label

    numbers, _ = label(shown, np.ones((3, 3)))
    large = np.bincount(numbers.ravel()) >= MIN_SQUARES
    large[0] = False
    return large[numbers]
