"""The field's pipeline, written after the published description: 1 + 9 + k tiles of a spot, one spot at a time.

Every tile is cut out of the image, preprocessed by itself and goes through the encoder with the other tiles of its
spot: neighbors are embedded again for every spot that they are near to. All of the 10 × 10 ensemble is computed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from deepspot._core.compute import autocast
from deepspot.encoders._torch import TorchEncoder, prepare

MEMBERS, WIDTH = 10, 512


def operations(dim: int, genes: int) -> tuple[int, int]:
    """Floating-point operations of ten φ for one tile, and of one ρ for one spot."""
    return 2 * MEMBERS * dim * WIDTH, 2 * 3 * WIDTH * genes


class Published(nn.Module):
    """φ and ρ in ensembles of ten: median of φ, sub-spots summed, neighbors by maximum, mean of ρ."""

    def __init__(self, dim: int, genes: int) -> None:
        super().__init__()
        self.phi = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, WIDTH), nn.Dropout(0.3), nn.ReLU()) for _ in range(MEMBERS)
        )
        self.rho = nn.ModuleList(
            nn.Sequential(nn.Dropout(0.3), nn.ReLU(), nn.Linear(3 * WIDTH, genes)) for _ in range(MEMBERS)
        )
        self.output = nn.Dropout(0.1)

    def represent(self, tiles: Tensor) -> Tensor:
        return torch.stack([phi(tiles) for phi in self.phi]).median(0).values

    def forward(self, spot: Tensor, subspots: Tensor, neighbors: Tensor, real: Tensor) -> Tensor:
        """Embeddings (n, d), (n, 9, d), (n, k, d), and which neighbors there are (n, k), to genes (n, genes)."""
        near = self.represent(neighbors) * real.unsqueeze(-1)
        pooled = torch.cat([self.represent(spot), self.represent(subspots).sum(1), near.amax(1)], dim=1)
        return self.output(torch.stack([rho(pooled) for rho in self.rho]).mean(0))


def cut(image: np.ndarray, corner: np.ndarray, side: int) -> np.ndarray:
    """A tile (side, side, 3) of an image (3, height, width), white beyond its border."""
    tile = np.full((side, side, 3), 255, dtype=np.uint8)
    (y, x), (height, width) = corner, image.shape[1:]
    y0, y1, x0, x1 = max(y, 0), min(y + side, height), max(x, 0), min(x + side, width)
    tile[y0 - y : y1 - y, x0 - x : x1 - x] = np.asarray(image[:, y0:y1, x0:x1]).transpose(1, 2, 0)
    return tile


def tiles_of(image: np.ndarray, corners: np.ndarray, side: int, near: np.ndarray, spot: int) -> list[np.ndarray]:
    """The tile of a spot, its 3 × 3 sub-spots, and the tiles of its neighbors."""
    third = side // 3
    parts = [
        cut(image, corners[spot] + (row * third, column * third), third) for row in range(3) for column in range(3)
    ]
    return [cut(image, corners[spot], side), *parts, *(cut(image, corners[other], side) for other in near)]


@torch.inference_mode()
def embed(encoder: TorchEncoder, tiles: list[np.ndarray]) -> Tensor:
    """Embeddings (1 + 9 + k, d) of the tiles of a spot."""
    with autocast(encoder.device):
        pixels = torch.cat([prepare(tile[None], encoder.card, encoder.device) for tile in tiles])
        return encoder.forward(encoder.transform(pixels), encoder.appendix(pixels))


@torch.inference_mode()
def predict(network: Published, embedded: Tensor) -> np.ndarray:
    """Genes (genes,) of one spot."""
    near = embedded[None, 10:]
    real = torch.ones(near.shape[:2], device=near.device)
    return network(embedded[:1], embedded[None, 1:10], near, real)[0].cpu().numpy()
