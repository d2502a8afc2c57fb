"""Downscaled image of the tissue around spots, cells or bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot._image.tiles import level_sizes, pyramid_levels, shrink
from deepspot._spatial.transforms import microns_per_pixel

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from .places import Places

MAX_PX = 1500


@dataclass(frozen=True)
class Backdrop:
    """Image (h, w, 3) and its left, right, bottom and top edge in µm from the corner of the full-resolution image."""

    pixels: np.ndarray
    extent: tuple[float, float, float, float]


def backdrop_of(sdata: SpatialData, image_key: str, places: Places) -> Backdrop:
    """Crop the image to places and a margin around them."""
    margin = max(0.04 * float(np.ptp(places.xy, axis=0).max()), 2 * places.diameter)
    mpp = microns_per_pixel(sdata, image_key)
    return cut_backdrop(sdata, image_key, places.xy / mpp, mpp=mpp, margin_um=margin)


def cut_backdrop(
    sdata: SpatialData, image_key: str, centers: np.ndarray, *, mpp: float, margin_um: float, max_px: int = MAX_PX
) -> Backdrop:
    """Crop the image to centers (n, 2) in px and a margin, and downscale it to `max_px` (at most half more) pixels."""
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
