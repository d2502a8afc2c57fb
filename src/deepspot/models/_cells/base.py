"""Base of the models of cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from deepspot._core.validate import check_count, check_positive
from deepspot._features.bags import Bags
from deepspot.errors import InputError
from deepspot.models._baselines.base import Baseline, seeded
from deepspot.models._confidence.folds import held_out
from deepspot.models._inputs import CONTEXT, Scaler, which_rows

if TYPE_CHECKING:
    from torch import Tensor

    from deepspot.models._network.config import Context

    from .network import CellNetwork, Standardize

Result = TypeVar("Result")
# Cells whose mean and standard deviation stand for those of all.
ENOUGH_CELLS = 20_000


@dataclass(eq=False, kw_only=True)
class CellModel(Baseline):
    """Base of the models of cells. Subclasses make the network."""

    _state = "network"
    width: int = 512
    dropout: float = 0.3
    lr: float = 1e-4
    weight_decay: float = 1e-6
    spots_per_step: int = 128
    epochs: int = 12
    max_epochs: int = 60
    patience: int = 5
    seed: int | None = None
    device: str | None = None
    n_epochs: int = field(init=False, default=0, repr=False)
    network: CellNetwork = field(init=False, repr=False)

    @property
    def context(self) -> tuple[Context, ...]:
        """Sets of the bags that the model uses."""
        return CONTEXT

    def _check(self, targets: np.ndarray) -> None:
        """Raise if a parameter is out of range, or the `targets` (n, genes) of the training spots do not fit."""
        for name in ("width", "spots_per_step", "epochs", "max_epochs", "patience"):
            check_count(getattr(self, name), name)
        check_positive(self.lr, "lr")
        if not 0 <= self.dropout < 1:
            raise InputError(f"`dropout` must be at least 0 and below 1, got {self.dropout}.")
        if not np.isfinite(targets).any():
            raise InputError("No training spot has a measured gene. Choose other `rows`.")

    def _make(self, bags: Bags, targets: np.ndarray, rows: np.ndarray) -> CellNetwork:
        """Return the untrained network, with the scale of embeddings and genes in the training `rows`."""
        raise NotImplementedError

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        from deepspot._core.compute import choose_device
        from deepspot.models._network.network import BagDataset

        from .training import train_network

        self._check_bags(bags)
        self._check(targets[rows])
        device, seed, epochs = choose_device(self.device), self._seed, self.epochs
        data = BagDataset(bags, self.context, targets, np.unique(slides, return_inverse=True)[1])
        options = {name: getattr(self, name) for name in ("lr", "weight_decay", "spots_per_step")} | {"device": device}
        held = held_out(rows, patients, seed)
        if held is not None:
            fitted = rows[~np.isin(rows, held)]
            with seeded(seed, device):
                network = self._make(bags, targets, fitted)
                r = train_network(
                    network, data, fitted, epochs=self.max_epochs, held=held, patience=self.patience, **options
                )
            epochs = int(np.argmax(r)) + 1
        with seeded(seed, device):
            network = self._make(bags, targets, rows)
            train_network(network, data, rows, epochs=epochs, **options)
        self.network, self.n_epochs = network, epochs

    def predict(self, bags: Bags, *, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression (n, genes) of all spots, or of `rows`, whose neighbors may be other spots."""
        network = self.network
        parts = self._apply(lambda batch, tiles: network(batch, tiles).cpu().numpy(), bags, rows)
        return np.concatenate(parts).astype(np.float32)

    def _apply(
        self, compute: Callable[[dict[str, Tensor], Tensor], Result], bags: Bags, rows: np.ndarray | None
    ) -> list[Result]:
        """Return what is computed from each batch of the `rows`, and from φ of all spot tiles (n, width)."""
        import torch

        from deepspot._core.compute import choose_device

        from .training import batches

        network = self.network
        self._check_bags(bags)
        if bags.dim != network.dim:
            raise InputError(f"The model takes embeddings of length {network.dim}, got {bags.dim}.")
        wanted, device = which_rows(rows, len(bags)), choose_device(self.device)
        with torch.inference_mode():
            found = [compute(*each) for each in batches(network, bags, self.context, wanted, device)]
        network.cpu()
        return found

    def _check_bags(self, bags: Bags) -> None:
        if "subspots" in self.context and bags.subspots is None:
            raise InputError(
                f"{type(self).__name__} sees cells as the sub-spots of a spot, but the bags have none. Set the "
                "embeddings of cells in `Bags(subspots=..., present=...)`."
            )

    def _scale_of_spots(self, bags: Bags, rows: np.ndarray) -> Standardize:
        from .network import Standardize

        return Standardize(Scaler.fit(bags.spot[rows]))

    def _scale_of_cells(self, bags: Bags, rows: np.ndarray) -> Standardize:
        """Return the scale of the embeddings of the cells of the training spots; raise if there are none."""
        from .network import Standardize

        once = np.unique(rows)
        subspots = np.empty((len(bags), 0, bags.dim)) if bags.subspots is None else bags.subspots
        present = np.ones(subspots.shape[:2], dtype=bool) if bags.present is None else bags.present
        spot, cell = np.nonzero(present[once])
        if len(spot) == 0:
            raise InputError("No training spot has a cell: `bags.present` is False everywhere.")
        if len(spot) > ENOUGH_CELLS:
            some = np.sort(np.random.default_rng(self._seed).choice(len(spot), ENOUGH_CELLS, replace=False))
            spot, cell = spot[some], cell[some]
        return Standardize(Scaler.fit(subspots[once[spot], cell]))
