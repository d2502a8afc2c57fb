"""Stain and texture statistics of a tile, appended to the embeddings of the default encoder."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._card import EncoderCard
from ._torch import MapEncoder

# Optical densities of hematoxylin, eosin and a residual (Ruifrok and Johnston, 2001), one stain per row.
STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
# Hematoxylin and eosin (2, 3) of the logarithms of RGB.
FROM_LOG = -torch.linalg.inv(torch.tensor(STAINS, dtype=torch.float64))[:, :2].T
RGB_QUANTILES = (0.1, 0.5, 0.9)
STAIN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Larger tiles are reduced to this side: the statistics do not become better, but slower.
LARGEST_PX = 224
# Increase with each change of the statistics, so that old features are not reused.
VERSION = 1


def stains(rgb: Tensor) -> Tensor:
    """Return hematoxylin and eosin density (n, 2, h, w) of RGB in 0 to 1 (n, 3, h, w)."""
    logs = rgb.clamp(min=1 / 255).log_()
    # As a product of matrices, ten times as fast as `einsum`.
    return (FROM_LOG.to(rgb) @ logs.flatten(2)).unflatten(2, rgb.shape[2:])


def statistics(rgb: Tensor) -> Tensor:
    """Compute statistics (n, 32) of tiles in RGB from 0 to 1 (n, 3, h, w).

    In order: mean (3), sd (3) and quantiles (9) of RGB; mean (2), sd (2) and quantiles (10) of hematoxylin and eosin;
    mean gradient of both (2) and sd of the hematoxylin gradient (1). All values are of the order of 0.1.
    """
    # Every fourth pixel suffices for moments and quantiles; sorting takes most of the time.
    halved = F.interpolate(rgb, scale_factor=0.5, mode="bilinear")  # mean of 2 × 2, in half the time of pooling
    return _statistics(rgb[..., ::4, ::4], halved)


def statistics_of_parts(rgb: Tensor, grid: int) -> Tensor:
    """Compute statistics (n, grid², 32) of the grid × grid parts of tiles, each enlarged to half the side of a tile.

    Parts are cropped from the tile and not read again, so they do not contain detail finer than its pixels.
    """
    n, side = len(rgb), rgb.shape[-1] // 2
    # As in `statistics`: half of the pixels for gradients, a quarter for the rest.
    enlarged = F.interpolate(rgb, size=(grid * side, grid * side), mode="bilinear")
    parts = enlarged.unflatten(3, (grid, side)).unflatten(2, (grid, side)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return _statistics(parts[..., ::4, ::4], parts).unflatten(0, (n, grid * grid))


def _statistics(sampled: Tensor, smooth: Tensor) -> Tensor:
    """Compute moments and quantiles of sampled pixels, and gradients of an image of half the side."""
    colors, densities = sampled.flatten(2), stains(sampled).flatten(2)
    smooth = stains(smooth)
    dx = smooth[..., :-1, 1:] - smooth[..., :-1, :-1]
    dy = smooth[..., 1:, :-1] - smooth[..., :-1, :-1]
    gradient = torch.sqrt(dx.square() + dy.square()).flatten(2)
    moments = [*_moments(colors, RGB_QUANTILES), *_moments(densities, STAIN_QUANTILES)]
    return torch.cat([*moments, gradient.mean(-1), _sd(gradient[:, :1])], dim=1)


def _moments(values: Tensor, quantiles: tuple[float, ...]) -> list[Tensor]:
    return [values.mean(-1), _sd(values), _quantiles(values, quantiles).flatten(1)]


def _sd(values: Tensor) -> Tensor:
    """Return the standard deviation along the last axis, 20 times as fast as `values.std(-1)` on a CPU."""
    centered = values - values.mean(-1, keepdim=True)
    return torch.linalg.vector_norm(centered, dim=-1) / math.sqrt(values.shape[-1] - 1)


def _quantiles(values: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Return quantiles (n, c, q) of values (n, c, k) by linear interpolation, as `torch.quantile` does."""
    if values.device.type == "cpu":
        ordered = torch.from_numpy(np.sort(values.numpy(), axis=-1))  # four times as fast as torch
    else:
        ordered = values.sort(dim=-1).values
    position = torch.tensor(levels, dtype=torch.float64, device=values.device) * (values.shape[-1] - 1)
    below = position.long()
    return torch.lerp(ordered[..., below], ordered[..., position.ceil().long()], (position - below).to(values))


class StatisticsEncoder(MapEncoder):
    """Torch encoder that appends stain and texture statistics of the tile, times `weight`."""

    def __init__(self, card: EncoderCard, module: nn.Module, *, weight: float, identity: str = "") -> None:
        super().__init__(card, module, identity=identity)
        self.weight = weight
        self.appended = ["statistics", VERSION, weight]

    def appendix(self, pixels: Tensor, grid: int | None = None) -> Tensor:
        """Return statistics of RGB in 0 to 1 (n, 32), or of its parts (n, grid², 32)."""
        # Half precision would blur differences between stains.
        with torch.autocast(pixels.device.type, enabled=False):
            if pixels.shape[-1] > LARGEST_PX:
                pixels = F.interpolate(pixels, size=(LARGEST_PX, LARGEST_PX), mode="bilinear")
            return self.weight * (statistics(pixels) if grid is None else statistics_of_parts(pixels, grid))
