from dataclasses import dataclass, replace

import numpy as np
import pytest

from deepspot._features.bags import Bags
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors

TYPES, DIM, GENES = 4, 10, 5
COUNTED = 5  # counts per unit of rate, of spots
OUTSIDE = 5.0  # rate of every gene outside of cells, per spot


@dataclass(frozen=True, eq=False)
class Tissue:
    """Spots with cells of four types, whose counts add up; and the rates of the cells per 10,000 of their spot."""

    bags: Bags
    expression: np.ndarray
    cells: np.ndarray

    def blind(self, seed: int = 0) -> Bags:
        """Return the bags with embeddings of cells that are noise."""
        noise = np.random.default_rng(seed).normal(size=self.bags.subspots.shape)
        return replace(self.bags, subspots=np.where(self.bags.present[..., None], noise, 0).astype(np.float32))


def make_tissue(n: int, seed: int) -> Tissue:
    types, rng = np.random.default_rng(99), np.random.default_rng(seed)
    profile = 1 + 20 * types.gamma(1.0, size=(TYPES, GENES))
    code = 1.5 * types.normal(size=(TYPES, DIM))
    mixture, number = rng.dirichlet(np.full(TYPES, 0.5), n), rng.poisson(5, n)
    number[:2] = (0, 12)
    present = np.arange(number.max()) < number[:, None]
    kind = (rng.random((*present.shape, 1)) > mixture.cumsum(axis=1)[:, None]).sum(axis=2).clip(max=TYPES - 1)
    rate = np.where(present[..., None], profile[kind], 0)
    depth = 1000.0 * number + 500
    counts = rng.poisson(COUNTED * (rate.sum(axis=1) + OUTSIDE))
    expression = np.log1p(counts / (COUNTED * depth[:, None]) * 1e4)
    subspots = np.where(present[..., None], code[kind] + 0.5 * rng.normal(size=(*present.shape, DIM)), 0)
    spot = mixture @ code + 0.5 * rng.normal(size=(n, DIM))
    position = np.stack(np.divmod(np.arange(n), 20), axis=1) * 100.0
    bags = Bags(
        spot.astype(np.float32),
        subspots.astype(np.float32),
        find_neighbors(position, NeighborRule(reach=101)),
        position - position.mean(axis=0),
        present=present,
    )
    cells = np.where(present[..., None], rate / depth[:, None, None] * 1e4, np.nan)
    return Tissue(bags, expression.astype(np.float32), cells)


@pytest.fixture(scope="session")
def train() -> Tissue:
    return make_tissue(200, 0)


@pytest.fixture(scope="session")
def test() -> Tissue:
    return make_tissue(200, 1)


@pytest.fixture(scope="session")
def r_within():
    """Function that returns r (genes,) of the differences between the cells of a spot and their mean."""

    def compute(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        several = np.isfinite(truth[..., 0]).sum(axis=1) > 1
        known = np.isfinite(truth[several, :, 0])
        from_mean = [
            (values[several] - np.nanmean(values[several], axis=1, keepdims=True))[known]
            for values in (predicted, truth)
        ]
        x, y = from_mean
        return (x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))

    return compute
