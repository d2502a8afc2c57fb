import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
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


Split = Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]]


class Vectors:
    """Inputs, parameters and outputs of a published system, by the names of the published code."""

    def __init__(self, folder: Path) -> None:
        self.inputs, self.parameters, self.expected = (
            dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "parameters", "expected")
        )

    def input(self, name: str) -> torch.Tensor:
        values = torch.from_numpy(self.inputs[name])
        return values if values.dtype == torch.int64 else values.float()

    def load(
        self,
        network: torch.nn.Module,
        names: Mapping[str, str | Split],
        parameters: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Copy the published parameters, by default all, to a network; buffers that were not published stay.

        `names` has our name for a prefix of published names, or a function that divides a parameter into ours.
        """
        self.ours, state = {}, {}
        for published, values in (self.parameters if parameters is None else parameters).items():
            prefix = max((key for key in names if published.startswith(key)), key=len)
            ours = names[prefix]
            values = torch.from_numpy(values)
            parts = (
                {ours + published.removeprefix(prefix): values} if isinstance(ours, str) else ours(published, values)
            )
            self.ours[published] = list(parts)
            state |= parts
        missing, unknown = network.load_state_dict(state, strict=False)
        assert not unknown
        assert set(missing) <= dict(network.named_buffers()).keys()

    def check_gradients(self, network: torch.nn.Module, *, rtol: float = 1e-3) -> None:
        trained = dict(network.named_parameters())
        names = self.expected["grad_names"].tolist()
        assert {part for name in names for part in self.ours[name]} == trained.keys()
        for name, norm in zip(names, self.expected["grad_norms"], strict=True):
            squares = [trained[part].grad.double().square().sum() for part in self.ours[name]]
            assert float(sum(squares)) ** 0.5 == pytest.approx(norm, rel=rtol, abs=1e-7), name


@pytest.fixture(scope="session")
def vectors():
    """Function that reads the vectors of a published system."""

    def read(name: str) -> Vectors:
        folder = Path(os.environ.get("DEEPSPOT_DATA", "")).parent / "vectors" / name
        if not folder.is_dir():
            pytest.skip(f"needs the vectors of {name} next to the folder DEEPSPOT_DATA")
        return Vectors(folder)

    return read


@pytest.fixture
def agree(record_property):
    """Function that compares with a published result, and records the largest difference for the benchmark."""

    def check(what: str, ours, expected, *, atol: float = 0.0, rtol: float = 0.0) -> None:
        np.testing.assert_allclose(ours, expected, atol=atol, rtol=rtol)
        error, largest = np.abs(np.asarray(ours) - expected).max(), np.abs(expected).max()
        record_property(what, f"{error:.1e}|{largest:.3g}")

    return check


@pytest.fixture(scope="session")
def first_losses():
    """Function that returns the losses before the first optimizer steps; after the first one it calls `check`."""

    def losses(network, loss, optimizer, check, steps: int = 5) -> list[float]:
        found = []
        for step in range(steps):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            if step == 0:
                check()
            optimizer.step()
            found.append(value.item())
        return found

    return losses
