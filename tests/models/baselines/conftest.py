from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from deepspot._features.bags import Bags
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors

SIDE, DIM, GENES, PX = 12, 6, 6, 8


@dataclass(frozen=True)
class World:
    """Two training slides and a test slide, with genes of three kinds: by color, by position, by nearest spots."""

    train: Bags
    test: Bags
    image: tuple[np.ndarray, np.ndarray]
    place: tuple[np.ndarray, np.ndarray]
    around: tuple[np.ndarray, np.ndarray]
    slides: np.ndarray

    def noise(self) -> tuple[np.ndarray, np.ndarray]:
        """Genes that are independent of the spots, each permuted separately."""
        rng = np.random.default_rng(7)
        return tuple(rng.permuted(values, axis=0) for values in self.image)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Use one thread, which is faster for small networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world() -> World:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, GENES))
    slides = [_slide(rng) for _ in range(3)]
    image = [bags.spot[:, :3] @ weights + 3 + 0.1 * rng.normal(size=(len(bags), GENES)) for bags in slides]
    place = [np.cos(bags.position / 150) @ weights[:2] + 0.1 * rng.normal(size=(len(bags), GENES)) for bags in slides]
    around = []
    for bags, values in zip(slides, image, strict=True):
        nearest = find_neighbors(bags.position, NeighborRule(reach=110))
        around.append(nearest @ values / nearest.sum(axis=1))
    around = [np.asarray(values) for values in around]
    return World(
        Bags.concat(slides[:2]),
        slides[2],
        (np.concatenate(image[:2]), image[2]),
        (np.concatenate(place[:2]), place[2]),
        (np.concatenate(around[:2]), around[2]),
        np.repeat(["a", "b"], SIDE**2),
    )


def _slide(rng: np.random.Generator) -> Bags:
    position = np.stack(np.meshgrid(*[np.arange(SIDE) * 100.0] * 2), axis=-1).reshape(-1, 2)
    position -= position.mean(axis=0)
    spot = rng.normal(size=(SIDE**2, DIM)).astype(np.float32)
    subspots = (spot[:, None] + rng.normal(size=(SIDE**2, 4, DIM))).astype(np.float16)
    color = np.clip(128 + 45 * spot[:, None, None, :3], 0, 255)
    tiles = np.clip(color + rng.normal(scale=10, size=(SIDE**2, PX, PX, 3)), 0, 255).astype(np.uint8)
    return Bags(spot, subspots, find_neighbors(position, NeighborRule(reach=150)), position, tiles)


def tiny() -> nn.Module:
    """Small image network."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
