"""Stain normalization by Macenko's method: one transformation of the colors for all tiles of a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot.errors import InputError

from .blocks import read_blocks
from .tiles import coarse_image, level_sizes
from .tissue import PER_TILE, glass_color, tissue_by_saturation, without_unscanned

if TYPE_CHECKING:
    from xarray import DataArray

    from deepspot._spatial.geometry import StainReference

VERSION = 1
"""Increase it if the same slide is normalized otherwise: it is part of the fingerprint of features."""

# Stains are estimated on this number of squares of tissue, at 1 µm per pixel, spread over the slide.
SQUARES, SQUARE_UM = 128, 50
# Pixels with a lower optical density are glass; stains are the directions of these percentiles of the others.
MIN_DENSITY, EXTREMES, STRENGTH = 0.15, (1, 99), 99
# In degrees: stains further from the reference are others, and closer to each other are one.
MAX_ANGLE, MIN_ANGLE = 45, 5
MIN_PIXELS = 1000


@dataclass(frozen=True)
class StainNormalizer:
    """Transformation of the colors of a slide."""

    glass: np.ndarray  # (3,) color of the glass
    matrix: np.ndarray  # (3, 3) from optical densities of the slide to those of the reference

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """Normalize pixels (…, 3) in uint8. Glass becomes white."""
        density = _lookup(self.glass)[tiles, np.arange(3)] @ self.matrix
        return np.round(255 * np.exp(-np.maximum(density, 0))).astype(np.uint8)


def _lookup(glass: np.ndarray) -> np.ndarray:
    """Return the optical density (256, 3) of each value in each channel."""
    values = np.arange(256, dtype=np.float32)[:, None]
    return np.maximum(-np.log((values + 1) / (glass + 1)), 0).astype(np.float32)


def stain_normalizer(pyramid: list[DataArray], mpp: float, reference: StainReference, name: str) -> StainNormalizer:
    """Estimate the stains of a slide, and return its normalization to a reference.

    `mpp` is µm per pixel of full resolution, and `name` that of the image in errors. Raises InputError if the slide
    shows no tissue, or its tissue does not have the two stains.
    """
    side, (height, width) = SQUARE_UM / mpp, level_sizes(pyramid)[0]
    rgb, scale = coarse_image(pyramid, side / PER_TILE)
    shape = (max(1, int(height / side)), max(1, int(width / side)))
    corners = np.indices(shape).reshape(2, -1).T
    shown = tissue_by_saturation(rgb, (corners[:, ::-1] + 0.5) * side / scale, side / scale, name)
    some = np.flatnonzero(shown)
    some = some[np.linspace(0, len(some) - 1, min(len(some), SQUARES)).astype(int)]
    squares = [block for _, block in read_blocks(pyramid, corners[some] * SQUARE_UM, SQUARE_UM, 1 / mpp)]
    glass = glass_color(rgb)
    pixels = np.concatenate([without_unscanned(square).reshape(-1, 3) for square in squares] or [rgb[:0, 0]])
    stains, strengths = estimate_stains(_lookup(glass)[pixels, np.arange(3)], reference, name)
    target = np.array([reference.hematoxylin, reference.eosin])
    matrix = np.linalg.pinv(stains) @ np.diag(np.array(reference.strengths) / strengths) @ target
    return StainNormalizer(glass, matrix.astype(np.float32))


def estimate_stains(density: np.ndarray, reference: StainReference, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return hematoxylin and eosin (2, 3) of length 1, and their strengths (2,), of optical densities (n, 3)."""
    density = density[(density > MIN_DENSITY).all(axis=1)].astype(np.float64)
    if len(density) < MIN_PIXELS:
        raise InputError(
            f"{name} has too little stained tissue ({len(density):,} pixels) to estimate its stains. Look at the "
            "slide; `stain=None` keeps its colors."
        )
    plane = np.linalg.eigh(np.cov(density.T))[1][:, [2, 1]]
    plane *= np.where(density.mean(axis=0) @ plane < 0, -1, 1)
    projected = density @ plane
    angles = np.percentile(np.arctan2(projected[:, 1], projected[:, 0]), EXTREMES)
    stains = np.column_stack([np.cos(angles), np.sin(angles)]) @ plane.T
    target = np.array([reference.hematoxylin, reference.eosin])
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    cosines = stains @ target.T
    if cosines[0, 0] + cosines[1, 1] < cosines[0, 1] + cosines[1, 0]:
        stains, cosines = stains[::-1], cosines[::-1]
    away = np.degrees(np.arccos(np.clip(np.diag(cosines), -1, 1)))
    apart = np.degrees(np.arccos(np.clip(stains[0] @ stains[1], -1, 1)))
    if away.max() > MAX_ANGLE or apart < MIN_ANGLE:
        raise InputError(
            f"{name} does not have the colors of hematoxylin and eosin: its stains are {away[0]:.0f}° and "
            f"{away[1]:.0f}° from those of the reference, and {apart:.0f}° apart. Check that it is H&E in RGB; "
            "`stain=None` keeps its colors."
        )
    amounts = density @ np.linalg.pinv(stains)
    return stains, np.maximum(np.percentile(amounts, STRENGTH, axis=0), 1e-3)
