"""The part of an image that lies under the spots, small enough to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot import _reader

if TYPE_CHECKING:
    from spatialdata import SpatialData

MAX_PX = 1500
# Averaging 3 × 3 of the pixels that are kept is enough to avoid moiré, and much faster than averaging all.
AVERAGED = 3


@dataclass(frozen=True)
class Backdrop:
    """A picture and where it lies.

    Attributes
    ----------
    pixels
        (h, w, 3) uint8.
    extent
        Left, right, bottom and top edge in µm from the corner of the full-resolution image, as matplotlib takes them.
    """

    pixels: np.ndarray
    extent: tuple[float, float, float, float]


def cut_backdrop(
    sdata: SpatialData, image_key: str, centers: np.ndarray, *, mpp: float, margin_um: float, max_px: int = MAX_PX
) -> Backdrop:
    """Cut the image to the spots and a margin, and scale it down.

    Parameters
    ----------
    sdata
        Where the image is.
    image_key
        Its name.
    centers
        (n, 2) x and y of the spots in pixels of the full-resolution image.
    mpp
        µm per pixel of that image.
    margin_um
        Tissue to show around the spots, in µm.
    max_px
        Limit of the longer side of the picture in pixels; it may be exceeded by half.
    """
    pyramid = _reader.levels(sdata, image_key)
    sizes = np.array(_reader.sizes(pyramid))[:, ::-1]  # as (width, height), like the centres
    low = np.clip(np.floor(centers.min(axis=0) - margin_um / mpp), 0, sizes[0] - 1)
    high = np.clip(np.ceil(centers.max(axis=0) + margin_um / mpp), low + 1, sizes[0])
    factors = sizes[0] / sizes
    enough = np.flatnonzero(((high - low) / factors).max(axis=1) >= max_px)
    level = int(enough[-1]) if len(enough) else 0
    first = np.floor(low / factors[level]).astype(int)
    last = np.ceil(high / factors[level]).astype(int)

    step = max(1, int((last - first).max() / max_px))
    stride = max(1, step // AVERAGED)
    block = max(1, min(step // stride, *((last - first) // stride)))
    part = pyramid[level].isel(x=slice(first[0], last[0], stride), y=slice(first[1], last[1], stride))
    small = np.asarray(part.coarsen(x=block, y=block, boundary="trim").mean().data) if block > 1 else part.to_numpy()
    left, top = first * factors[level] * mpp
    right, bottom = (left, top) + np.array(small.shape[:0:-1]) * block * stride * factors[level] * mpp
    pixels = np.round(small).astype(np.uint8).transpose(1, 2, 0)
    return Backdrop(pixels, (float(left), float(right), float(bottom), float(top)))
