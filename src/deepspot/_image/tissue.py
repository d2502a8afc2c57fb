"""Which tiles of a slide show tissue, decided on a coarse RGB view of it. Arrays only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepspot._spatial.geometry import spot_grid
from deepspot.errors import InputError

MAX_RGB = 200
"""The paper's rule: the tile of a spot is tissue unless the mean of its RGB values is above this."""

PER_TILE = 8
"""A coarse view needs so many pixels along a tile."""

BAND = 512
WHITE_PERCENTILE, WHITE_SAMPLES = 99, 1_000_000
# Stained glass is tinted, by 0.93 on real slides. What is colored more is tissue, on a slide without glass.
LEAST_WHITE = 0.9

# Of saturation, from 0 to 1. Folds go up to 0.7, and would pull Otsu's threshold into the tissue.
MOST = 0.3
# A slide on which tissue begins above this has no glass to tell it from.
HIGHEST = 0.15
# Tiles of stained glass and compression noise reach 0.04; tissue whose stain has faded to a third has 0.05.
LEAST = 0.04

# Hue in degrees, chroma (saturation times brightness) from 0 to 1. Dense hematoxylin is as blue as ink, up to 0.3.
GREEN, GREEN_SATURATION = (65, 205), 0.15
BLUE, BLUE_CHROMA = (205, 255), 0.33
RED, RED_CHROMA = (340, 20), 0.6
BLACK_SATURATION, BLACK_BRIGHTNESS = 0.25, 0.45
# Less is a speck of pigment or a refracting edge. Strokes fade out, over up to half a tile.
STROKE_PX, FADES = 3, 0.5


def tissue_by_brightness(
    rgb: np.ndarray, centers: np.ndarray, sides: np.ndarray, name: str = "The image"
) -> np.ndarray:
    """Tiles (n,) whose mean RGB is at most 200: the paper's rule.

    Of an image (h, w, 3; uint8) by the centers (n, 2; x and y) and the sides (2,; width and height) of the tiles in its
    pixels. Errors call it `name`.
    """

    def mean(part: np.ndarray) -> np.ndarray:
        return _scanned(part).mean(axis=2, dtype=np.float32)

    return tile_means(rgb, mean, centers, sides) <= MAX_RGB


def tissue_by_saturation(
    rgb: np.ndarray, centers: np.ndarray, sides: np.ndarray, name: str = "The image"
) -> np.ndarray:
    """Tiles (n,) that are colored as tissue is, whatever the stain's strength: Otsu's threshold on saturation.

    Saturation is that against the glass of this slide, 0 where there is ink and close to it. Of a tile the root mean
    square counts: tissue is patchy, the tint of glass is not. The threshold comes from tiles all over the slide; if
    none of them is colored, that is a ValueError. Parameters are those of :func:`tissue_by_brightness`.
    """
    from skimage.filters import threshold_otsu

    white = _white(rgb)
    side = float(sides.mean())
    plain = np.where(_ink(rgb, white, side)[..., None], np.uint8(255), rgb)

    def squared(part: np.ndarray) -> np.ndarray:
        return np.minimum(_hsv(part, white)[0], MOST) ** 2

    # Of places that cover all of the slide, so that the threshold does not depend on the array that is laid over it.
    height, width = rgb.shape[:2]
    anywhere = np.sqrt(tile_means(plain, squared, spot_grid(width, height, side / 2, side, "square")[0], sides))
    upper = anywhere >= threshold_otsu(anywhere)
    colored = anywhere[upper].mean()
    if colored < LEAST:
        raise InputError(
            f"{name} shows no tissue: its most colored parts have a saturation of {colored:.3f}, as glass has. Look "
            "at the slide; `tissue=None` lays spots everywhere."
        )
    # Otsu's optimum lies midway between both means; where nothing lies between them, its lower end would be as good.
    middle = (colored + anywhere[~upper].mean()) / 2 if not upper.all() else colored
    return np.sqrt(tile_means(plain, squared, centers, sides)) >= min(middle, HIGHEST)


def tile_means(
    rgb: np.ndarray, value: Callable[[np.ndarray], np.ndarray], centers: np.ndarray, sides: np.ndarray
) -> np.ndarray:
    """Means (n,) of a value of pixels, 0 or more, over tiles; pixels at the border of a tile count by the share inside.

    `value` makes values (b, w) of some rows (b, w, 3) of the image. What lies outside of the image does not count.
    """
    size = np.array(rgb.shape[1::-1])
    low, high = np.clip(centers - sides / 2, 0, size), np.clip(centers + sides / 2, 0, size)
    band = (centers[:, 1] // BAND).astype(np.int64)
    means = np.empty(len(centers))
    for number in np.unique(band):
        rows = np.flatnonzero(band == number)
        first, last = int(low[rows, 1].min()), int(np.ceil(high[rows, 1].max()))
        table = np.zeros((last - first + 1, size[0] + 1))
        np.cumsum(value(rgb[first:last]), axis=0, dtype=np.float64, out=table[1:, 1:])
        np.cumsum(table, axis=1, out=table)
        (x0, y0), (x1, y1) = (low[rows] - (0, first)).T, (high[rows] - (0, first)).T
        total = _at(table, x1, y1) - _at(table, x0, y1) - _at(table, x1, y0) + _at(table, x0, y0)
        means[rows] = np.maximum(total, 0) / ((x1 - x0) * (y1 - y0))  # sums of nothing may differ by rounding
    return means


def _at(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum of everything above and to the left: within a pixel such a table is exactly bilinear."""
    column = np.minimum(x.astype(np.int64), table.shape[1] - 2)
    row = np.minimum(y.astype(np.int64), table.shape[0] - 2)
    u, v = x - column, y - row
    upper = table[row, column] * (1 - u) + table[row, column + 1] * u
    lower = table[row + 1, column] * (1 - u) + table[row + 1, column + 1] * u
    return upper * (1 - v) + lower * v


def _scanned(part: np.ndarray) -> np.ndarray:
    """Pixels with glass where nothing was scanned: readers show that as a black which nothing on a slide has."""
    never = (part == 0).all(axis=2, keepdims=True)
    return np.where(never, np.uint8(255), part)


def _white(rgb: np.ndarray) -> np.ndarray:
    """Color of the glass: nearly the brightest of each channel."""
    step = int(np.ceil(np.sqrt(rgb.shape[0] * rgb.shape[1] / WHITE_SAMPLES)))
    some = rgb[::step, ::step].reshape(-1, 3)
    some = some[(some > 0).any(axis=1)]
    if not len(some):
        return np.full(3, 255, dtype=np.float32)
    white = np.percentile(some, WHITE_PERCENTILE, axis=0)
    return np.maximum(white, LEAST_WHITE * white.max()).astype(np.float32)


def _ink(rgb: np.ndarray, white: np.ndarray, side: float) -> np.ndarray:
    """Where strokes of a pen are, with the margin in which they fade out (h, w)."""
    from scipy.ndimage import maximum_filter, minimum_filter

    ink = np.empty(rgb.shape[:2], dtype=bool)
    for first in range(0, len(rgb), BAND):
        saturation, bright, hue = _hsv(rgb[first : first + BAND], white)
        chroma = saturation * bright
        ink[first : first + BAND] = (
            (_between(hue, GREEN) & (saturation > GREEN_SATURATION))
            | (_between(hue, BLUE) & (chroma > BLUE_CHROMA))
            | (~_between(hue, RED[::-1]) & (chroma > RED_CHROMA))
            | ((saturation < BLACK_SATURATION) & (bright < BLACK_BRIGHTNESS))
        )
    return maximum_filter(minimum_filter(ink, STROKE_PX), STROKE_PX + 2 * round(FADES * side))


def _hsv(part: np.ndarray, white: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Saturation and brightness against white, from 0 to 1, and hue in degrees."""
    red, green, blue = np.moveaxis(np.minimum(_scanned(part) / white, 1), 2, 0)
    bright = np.maximum(np.maximum(red, green), blue)
    chroma = bright - np.minimum(np.minimum(red, green), blue)
    gray = np.where(chroma > 0, chroma, 1)
    hue = np.select(
        [bright == red, bright == green], [(green - blue) / gray % 6, (blue - red) / gray + 2], (red - green) / gray + 4
    )
    return chroma / np.maximum(bright, 1e-6), bright, 60 * hue


def _between(hue: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (hue >= limits[0]) & (hue <= limits[1])
