"""Spots and a downscaled image of the tissue around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import DIAMETER
from deepspot._image.tiles import level_sizes, pyramid_levels, shrink
from deepspot._spatial import transforms

if TYPE_CHECKING:
    from spatialdata import SpatialData

MAX_PX = 1500
# Diameter as a fraction of the distance between spots, if their size is unknown.
DEFAULT_DIAMETER = 0.55


@dataclass(frozen=True)
class Spots:
    """Centers (n, 2) of spots in pixels of the full image of `mpp` µm per pixel, and their diameter in µm."""

    centers: np.ndarray
    mpp: float
    diameter: float

    @property
    def xy(self) -> np.ndarray:
        """Centers in µm from the corner of the image."""
        return self.centers * self.mpp


@dataclass(frozen=True)
class Backdrop:
    """Image (h, w, 3) and its left, right, bottom and top edge in µm from the corner of the full-resolution image."""

    pixels: np.ndarray
    extent: tuple[float, float, float, float]


def place_spots(sdata: SpatialData, image_key: str, shapes_key: str) -> Spots:
    """Return the positions of spots in an image, and the diameter of the tissue that they measure."""
    placement = transforms.place_spots(sdata, image_key, shapes_key)
    diameters = sdata.shapes[shapes_key].get(DIAMETER)
    if diameters is None:
        diameter = DEFAULT_DIAMETER * transforms.pitch_px(placement.centers) * placement.mpp
    else:
        diameter = float(diameters.median())
    return Spots(placement.centers, placement.mpp, diameter)


def backdrop_of(sdata: SpatialData, image_key: str, spots: Spots) -> Backdrop:
    """Crop the image to the spots and a margin around them."""
    margin = max(0.04 * float(np.ptp(spots.xy, axis=0).max()), 2 * spots.diameter)
    return cut_backdrop(sdata, image_key, spots.centers, mpp=spots.mpp, margin_um=margin)


def cut_backdrop(
    sdata: SpatialData, image_key: str, centers: np.ndarray, *, mpp: float, margin_um: float, max_px: int = MAX_PX
) -> Backdrop:
    """Crop the image to the spots (n, 2) and a margin, and downscale it to `max_px` (at most half more) pixels."""
    pyramid = pyramid_levels(sdata, image_key)
    sizes = np.array(level_sizes(pyramid))[:, ::-1]  # as (width, height), like the centers
    low = np.clip(np.floor(centers.min(axis=0) - margin_um / mpp), 0, sizes[0] - 1)
    high = np.clip(np.ceil(centers.max(axis=0) + margin_um / mpp), low + 1, sizes[0])
    factors = sizes[0] / sizes
    enough = np.flatnonzero(((high - low) / factors).max(axis=1) >= max_px)
    level = int(enough[-1]) if len(enough) else 0
    first = np.floor(low / factors[level]).astype(int)
    last = np.ceil(high / factors[level]).astype(int)
    pixels, step = shrink(pyramid[level], first, last, max_px)
    left, top = first * factors[level] * mpp
    right, bottom = (left, top) + np.array(pixels.shape[1::-1]) * step * factors[level] * mpp
    return Backdrop(pixels, (float(left), float(right), float(bottom), float(top)))
