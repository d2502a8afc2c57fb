"""Tissue detection: which tiles of a slide show tissue, from a downscaled RGB image (arrays only)."""

from __future__ import annotations

import numpy as np

from deepspot._spatial.geometry import spot_grid
from deepspot.errors import InputError

PER_TILE = 8
"""Pixels along the side of a tile that the downscaled image should have."""

MAX_RGB = 200
"""Rule of the paper: a tile shows tissue if the mean of its RGB values is at most this."""

# Limits of the saturation, which is between 0 and 1. Folds reach 0.7, and would pull Otsu's threshold into the tissue.
MAX_SATURATION = 0.3
# On a slide without glass, Otsu's threshold is within the tissue: it is never above this value.
MAX_THRESHOLD = 0.15
# Tiles of stained glass and compression noise reach 0.04; tissue with a third of the usual stain has 0.05.
MIN_TISSUE = 0.04


def tissue_by_brightness(
    rgb: np.ndarray, centers: np.ndarray, sides: np.ndarray, name: str = "The image"
) -> np.ndarray:
    """Select the tiles (n,) with a mean RGB value of at most 200, as in the paper.

    `centers` (n, 2; x and y) and `sides` (2,; width and height) of the tiles are in pixels of the image (h, w, 3;
    uint8), which is called `name` in errors.
    """
    return tile_means(without_unscanned(rgb).mean(axis=2, dtype=np.float32), centers, sides) <= MAX_RGB


def tissue_by_saturation(
    rgb: np.ndarray, centers: np.ndarray, sides: np.ndarray, name: str = "The image"
) -> np.ndarray:
    """Select the tiles (n,) that have the color of tissue, for any strength of the stain: Otsu's threshold.

    Saturation is relative to the glass of the slide, and 0 in and near ink. A tile is described by its root mean
    square, as tissue is patchy and the tint of glass is not. The threshold is found on tiles that cover the slide;
    raises InputError if none of them is colored. Parameters as in :func:`tissue_by_brightness`.
    """
    saturation = without_ink(*saturation_and_ink(rgb), float(sides.mean()))
    threshold = saturation_threshold(saturation, sides, name)
    return np.sqrt(tile_means(np.minimum(saturation, MAX_SATURATION) ** 2, centers, sides)) >= threshold


def saturation_threshold(saturation: np.ndarray, sides: np.ndarray, name: str) -> float:
    """Return the least root mean square of the saturation (h, w) of a tile that shows tissue."""
    from skimage.filters import threshold_otsu

    side, squared = float(sides.mean()), np.minimum(saturation, MAX_SATURATION) ** 2
    # A grid of its own, so that the threshold does not depend on the positions of the spots.
    height, width = saturation.shape
    grid = spot_grid(width, height, side / 2, side, "square")[0]
    everywhere = np.sqrt(tile_means(squared, grid, sides))
    upper = everywhere >= threshold_otsu(everywhere)
    colored = everywhere[upper].mean()
    if colored < MIN_TISSUE:
        raise InputError(
            f"{name} shows no tissue: its most colored parts have a saturation of {colored:.3f}, as glass has. Look "
            "at the slide; `tissue=None` places spots everywhere."
        )
    # Otsu's optimum is the middle of both means. If no value is between them, Otsu returns the lower end of the gap.
    middle = (colored + everywhere[~upper].mean()) / 2 if not upper.all() else colored
    return float(min(middle, MAX_THRESHOLD))


TISSUE_RULES = {"brightness": tissue_by_brightness, "saturation": tissue_by_saturation}

# Rows of the image that are processed at once.
BAND = 512


def tile_means(values: np.ndarray, centers: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the means (n,) of non-negative values (h, w) over tiles, with pixels at borders weighted by their overlap.

    Parts of tiles outside of the image are ignored.
    """
    from scipy.ndimage import map_coordinates

    size = np.array(values.shape[::-1])
    low, high = np.clip(centers - sides / 2, 0, size), np.clip(centers + sides / 2, 0, size)
    band = (centers[:, 1] // BAND).astype(np.int64)
    means = np.empty(len(centers))
    for number in np.unique(band):
        rows = np.flatnonzero(band == number)
        first, last = int(low[rows, 1].min()), int(np.ceil(high[rows, 1].max()))
        # Integral image: it is exactly bilinear within a pixel.
        table = np.zeros((last - first + 1, size[0] + 1))
        np.cumsum(values[first:last], axis=0, dtype=np.float64, out=table[1:, 1:])
        np.cumsum(table, axis=1, out=table)
        (x0, y0), (x1, y1) = (low[rows] - (0, first)).T, (high[rows] - (0, first)).T
        corners = np.array([(y1, y0, y1, y0), (x1, x1, x0, x0)])
        total = np.array([1, -1, -1, 1]) @ map_coordinates(table, corners, order=1)
        means[rows] = np.maximum(total, 0) / ((x1 - x0) * (y1 - y0))  # an empty sum may differ from 0 by rounding
    return means


def without_unscanned(part: np.ndarray) -> np.ndarray:
    """Replace pixels that were not scanned, which readers show as exact black, by white."""
    unscanned = (part == 0).all(axis=2, keepdims=True)
    return np.where(unscanned, np.uint8(255), part)


def glass_color(rgb: np.ndarray) -> np.ndarray:
    """Estimate the color of the glass: the 99th percentile of each channel in up to a million pixels."""
    step = int(np.ceil(np.sqrt(rgb.shape[0] * rgb.shape[1] / 1_000_000)))
    sample = rgb[::step, ::step].reshape(-1, 3)
    sample = sample[(sample > 0).any(axis=1)]
    if not len(sample):
        return np.full(3, 255, dtype=np.float32)
    white = np.percentile(sample, 99, axis=0)
    # Glass is tinted by up to 0.93 on real slides. A stronger color is tissue, on a slide without glass.
    return np.maximum(white, 0.9 * white.max()).astype(np.float32)


# Hue in degrees; saturation, brightness and chroma (saturation times brightness) from 0 to 1.
GREEN, MIN_GREEN_SATURATION = (65, 205), 0.15
BLUE, MIN_BLUE_CHROMA = (205, 255), 0.33  # dense hematoxylin is as blue as ink, up to 0.3
NOT_RED, MIN_RED_CHROMA = (20, 340), 0.6
MAX_BLACK_SATURATION, MAX_BLACK_BRIGHTNESS = 0.25, 0.45
# Thinner regions are specks of pigment or refracting edges.
MIN_STROKE_PX = 3
# Ink fades out around a stroke, over up to this part of a tile.
MARGIN = 0.5


def saturation_and_ink(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the saturation (h, w) relative to the glass, and the core of pen strokes (h, w) in bool.

    The core is a stroke without the `MIN_STROKE_PX // 2` pixels at its border.
    """
    from scipy.ndimage import minimum_filter
    from skimage.color import rgb2hsv

    white = glass_color(rgb)
    saturation, ink = np.empty(rgb.shape[:2], dtype=np.float32), np.empty(rgb.shape[:2], dtype=bool)
    for first in range(0, len(rgb), BAND):
        rows = slice(first, first + BAND)
        hsv = rgb2hsv(np.minimum(without_unscanned(rgb[rows]) / white, 1))
        hue, saturation[rows], brightness = 360 * hsv[..., 0], hsv[..., 1], hsv[..., 2]
        chroma = saturation[rows] * brightness
        ink[rows] = (
            (_between(hue, GREEN) & (saturation[rows] > MIN_GREEN_SATURATION))
            | (_between(hue, BLUE) & (chroma > MIN_BLUE_CHROMA))
            | (~_between(hue, NOT_RED) & (chroma > MIN_RED_CHROMA))
            | ((saturation[rows] < MAX_BLACK_SATURATION) & (brightness < MAX_BLACK_BRIGHTNESS))
        )
    return saturation, minimum_filter(ink, MIN_STROKE_PX)


def without_ink(saturation: np.ndarray, core: np.ndarray, side: float) -> np.ndarray:
    """Return the saturation (h, w), 0 in pen strokes and the margin in which they fade; tiles have this `side`."""
    from scipy.ndimage import maximum_filter

    return np.where(maximum_filter(core, MIN_STROKE_PX + 2 * round(MARGIN * side)), np.float32(0), saturation)


def _between(hue: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (hue >= limits[0]) & (hue <= limits[1])
