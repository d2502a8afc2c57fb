import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from deepspot._features.bags import Bags
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors

SIDE = 12


@pytest.fixture(scope="session")
def bags() -> Bags:
    """A grid of 12 × 12 spots with random embeddings, 8 neighbors each inside, and one spot far away from all."""
    rng = np.random.default_rng(0)
    rows, cols = np.divmod(np.arange(SIDE**2), SIDE)
    centers = np.column_stack([cols, rows]) * 100.0
    centers[-1] = (1e5, 1e5)
    spot = rng.normal(size=(SIDE**2, 16)).astype(np.float32)
    subspots = rng.normal(size=(SIDE**2, 9, 16)).astype(np.float16)
    return Bags(spot, subspots, find_neighbors(centers, NeighborRule(reach=150)))


@pytest.fixture(scope="session")
def targets(bags: Bags) -> np.ndarray:
    """Six genes: two read the spot, two its sub-spots, two its neighbors."""
    around = (bags.neighbors @ bags.spot) / np.maximum(bags.neighbors.sum(axis=1).A1, 1)[:, None]
    inside = bags.subspots.astype(np.float32).mean(axis=1)
    return np.concatenate([bags.spot[:, :2], 3 * inside[:, :2], 3 * around[:, :2]], axis=1) + 2


@pytest.fixture(scope="session")
def lonely(bags: Bags) -> Bags:
    """The same spots without any neighbor."""
    return Bags(bags.spot, bags.subspots, csr_matrix(bags.neighbors.shape, dtype=bool))


@pytest.fixture(scope="session")
def fuzzing():
    """The module `fuzzing`, with a small model and mutations of bundles."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        return import_module("fuzzing")
    finally:
        sys.path.pop(0)


@pytest.fixture
def tiny(fuzzing):
    """A model with all that a bundle can hold."""
    return fuzzing.tiny_model()
