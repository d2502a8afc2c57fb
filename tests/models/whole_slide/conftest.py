import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

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

    def load(self, network: torch.nn.Module, names: Mapping[str, str | Split]) -> None:
        """Copy the published parameters to a network.

        `names` has our name for a prefix of published names, or a function that divides a parameter into ours.
        """
        self.ours, state = {}, {}
        for published, values in self.parameters.items():
            prefix = max((key for key in names if published.startswith(key)), key=len)
            ours = names[prefix]
            values = torch.from_numpy(values)
            parts = (
                {ours + published.removeprefix(prefix): values} if isinstance(ours, str) else ours(published, values)
            )
            self.ours[published] = list(parts)
            state |= parts
        network.load_state_dict(state)

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
def transformer():
    """Function that returns the names of transformer blocks, with queries, keys and values in one parameter."""

    def names(published: str, ours: str, attention: str = "0", feed: str = "1") -> dict[str, str | Split]:
        def divide(_: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
            parts = zip(("query", "key", "value"), values.chunk(3), strict=True)
            return {f"{ours}.attention.{part}.weight": weight for part, weight in parts}

        return {
            f"{published}.{attention}.norm": f"{ours}.norm",
            f"{published}.{attention}.fn.to_qkv": divide,
            f"{published}.{attention}.fn.to_out.0": f"{ours}.attention.out.0",
            f"{published}.{feed}.norm": f"{ours}.feed.0",
            f"{published}.{feed}.fn.net.0": f"{ours}.feed.1",
            f"{published}.{feed}.fn.net.3": f"{ours}.feed.4",
        }

    return names


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
