"""Checkpoints as the authors' package writes them: by classes of its names, through PyTorch's own `torch.save`."""

import os
import sys
import types
import zipfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

MODULE, LOSS = "deepspot.spot.model", "deepspot.spot.loss"
FILES = ("final_model.pkl", "top_param_overall.yaml", "info_highly_variable_genes.csv")
GENES = [f"G{number}" for number in range(6)]


class Phi(nn.Module):
    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(dim, width), nn.Dropout(0.3), nn.ReLU())


class Rho(nn.Module):
    def __init__(self, width: int, genes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(0.3), nn.ReLU(), nn.Linear(width, genes), nn.Dropout(0.1))


class DeepSpot(lightning.LightningModule):
    def __init__(
        self,
        input_size=5,
        output_size=6,
        phi2rho_size=4,
        n_ensemble=3,
        spot_context="spot_subspot_neighbors",
        loss_func="mse",
        random_seed=1,
        scaler=None,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.scaler = scaler
        self.training_loss = [0.5, 0.25]
        self.phi_spot = nn.ModuleList(Phi(input_size, phi2rho_size) for _ in range(n_ensemble))
        parts = spot_context.count("_") + 1
        self.rho = nn.ModuleList(Rho(parts * phi2rho_size, output_size) for _ in range(n_ensemble + 1))
        self._forward_fn = getattr(self, f"_forward_{spot_context}")
        self.loss_func = loss_mse_function

    def _forward_spot(self, x):
        (spot,) = x
        return self._out(self._phi(spot).sum(1))

    def _forward_spot_neighbors(self, x):
        spot, near = x
        return self._out(torch.cat([self._phi(spot)[:, 0], self._phi(near).amax(1)], dim=1))

    def _forward_spot_subspot(self, x):
        spot, subspots = x
        return self._out(torch.cat([self._phi(spot)[:, 0], self._phi(subspots).sum(1)], dim=1))

    def _forward_spot_subspot_neighbors(self, x):
        spot, subspots, near = x
        parts = [self._phi(spot)[:, 0], self._phi(subspots).sum(1), self._phi(near).amax(1)]
        return self._out(torch.cat(parts, dim=1))

    def _phi(self, tiles):
        return torch.stack([phi.model(tiles) for phi in self.phi_spot]).median(0).values

    def _out(self, pooled):
        return torch.stack([rho.model(pooled.clone()) for rho in self.rho]).mean(0)


def loss_mse_function(predicted, measured):
    return nn.functional.mse_loss(predicted, measured)


class Operation(str, Enum):  # noqa: UP042 as the authors have it, which is pickled in another way
    SUM = "sum"
    MAX = "max"
    MEAN = "mean"


class DeepCell(lightning.LightningModule):
    """The authors' network for cells; `deep` is an earlier one with more layers."""

    def __init__(
        self,
        input_size=5,
        output_size=6,
        phi2rho_size=4,
        n_ensemble=3,
        cell_context="cell_neighbors",
        agg_neighbors="max",
        random_seed=1,
        scaler=None,
        deep=False,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.scaler, self.agg_neighbors = scaler, Operation(agg_neighbors)
        self.phi_cell = nn.ModuleList(CellPhi(input_size, phi2rho_size) for _ in range(n_ensemble))
        width = phi2rho_size * (1 + cell_context.count("_"))
        self.rho = nn.ModuleList(CellRho(width, output_size) for _ in range(n_ensemble))
        if deep:
            for phi in self.phi_cell:
                phi.model.append(nn.Linear(phi2rho_size, phi2rho_size))
        self._forward_fn = getattr(self, f"_forward_{cell_context}")
        self.loss_func = loss_huber_function

    def _forward_cell(self, cell):
        return self._out(self._phi(cell))

    def _forward_cell_neighbors(self, cell, near):
        pool = {"max": lambda x: x.amax(1), "mean": lambda x: x.mean(1), "sum": lambda x: x.sum(1)}
        return self._out(torch.cat([self._phi(cell), pool[self.agg_neighbors.value](self._phi(near))], dim=1))

    def _phi(self, tiles):
        return torch.stack([phi.model(tiles) for phi in self.phi_cell]).median(0).values

    def _out(self, pooled):
        return torch.stack([rho.model(pooled.clone()) for rho in self.rho]).mean(0)


CellPhi, CellRho = type("Phi", (Phi,), {}), type("Rho", (Rho,), {})


def loss_huber_function(predicted, measured):
    return nn.functional.huber_loss(predicted, measured)


@pytest.fixture
def authors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The authors' package under its own name, while a checkpoint is written."""
    for name, things in {
        MODULE: (DeepSpot, Phi, Rho),
        LOSS: (loss_mse_function,),
        "deepspot.cell.model": (DeepCell, CellPhi, CellRho, Operation),
        "deepspot.cell.loss": (loss_huber_function,),
    }.items():
        module = types.ModuleType(name)
        for thing in things:
            monkeypatch.setattr(thing, "__module__", name)
            setattr(module, thing.__name__, thing)
        for parent in (name, name.rpartition(".")[0]):
            monkeypatch.setitem(sys.modules, parent, module if parent == name else types.ModuleType(parent))
    return types.SimpleNamespace(DeepSpot=DeepSpot, DeepCell=DeepCell)


@pytest.fixture
def scaler() -> StandardScaler:
    return StandardScaler().fit(np.random.default_rng(0).gamma(2, size=(50, len(GENES))))


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Path]:
    """Write the three files of a published model, and give their folder."""

    def write(
        network: Any, genes: list[str] = GENES, settings: str = "image_feature_model: tiny\nneighbors: 1\n"
    ) -> Path:
        folder = tmp_path / "Colon"
        folder.mkdir(exist_ok=True)
        torch.save(network, folder / FILES[0])
        (folder / FILES[1]).write_text(settings)
        rows = ["gene_name,isPredicted,highly_variable_rank", "OTHER,False,", *(f"{gene},True,1.0" for gene in genes)]
        (folder / FILES[2]).write_text("\n".join(rows) + "\n")
        return folder

    return write


@pytest.fixture
def folder(authors: Any, publish: Callable[..., Path]) -> Path:
    """A published model, as the authors' network starts."""
    return publish(authors.DeepSpot())


def rewrite(folder, change):
    """Change the entries of a checkpoint: `change` gets and gives a dictionary of names and bytes."""
    path = folder / FILES[0]
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in change(entries).items():
            file.writestr(name, data)


@pytest.fixture(scope="session")
def vector() -> Path:
    """The checkpoint in the format of the published weights, with inputs and expected outputs."""
    data = os.environ.get("DEEPSPOT_DATA")
    folder = Path(data or "").parent / "vectors" / "legacy_checkpoint"
    if not data or not folder.is_dir():
        pytest.skip("the checkpoint that outputs are known of is not beside DEEPSPOT_DATA")
    return folder
