"""Base of the models of cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.validate import check_count, check_positive
from deepspot._features.bags import Bags
from deepspot._stats.normalize import SCALES
from deepspot.errors import InputError
from deepspot.models._baselines.base import Baseline, seeded
from deepspot.models._bundled import BundledModel
from deepspot.models._confidence.folds import held_out
from deepspot.models._confidence.ood import OODDetector
from deepspot.models._inputs import Scaler, which_rows

from .config import CellNetworkConfig, CellSystem, context_of

if TYPE_CHECKING:
    from torch import Tensor

    from deepspot.models._bundle.card import CellModelCard
    from deepspot.models._network.config import Context

    from .network import CellNetwork, Standardize

Result = TypeVar("Result")
# Cells whose mean and standard deviation stand for those of all.
ENOUGH_CELLS = 20_000


@dataclass(eq=False, kw_only=True, repr=False)
class CellModel(Baseline, BundledModel):
    """Base of the models of cells: estimators, which have a card after training on slides."""

    _state = "network"
    system: ClassVar[CellSystem]
    card: CellModelCard = field(init=False, repr=False)
    ood: OODDetector = field(init=False, repr=False)
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

    def __repr__(self) -> str:
        kind = type(self).__name__
        if "card" in vars(self):
            return f"{kind} {self.card.summary}"
        return f"{kind}({', '.join(f'{each.name}={getattr(self, each.name)!r}' for each in fields(self) if each.init)})"

    @property
    def architecture(self) -> CellNetworkConfig:
        """Architecture of the network, from the parameters."""
        known = {name: value for name, value in vars(self).items() if name in CellNetworkConfig.model_fields}
        return CellNetworkConfig(system=self.system, **known)

    @property
    def context(self) -> tuple[Context, ...]:
        """Sets of the bags that the model uses."""
        return context_of(self.system, neighbors=getattr(self, "neighbors", True))

    @property
    def fingerprint(self) -> str:
        """Content hash of everything that a prediction depends on."""
        weights = [[name, digest(value.numpy())] for name, value in self.network.state_dict().items()]
        card = self.card.model_dump(
            mode="json", include={"genes", "network", "geometry", "encoder_fingerprint", "scale"}
        )
        return digest(weights, card, self.calibration_hash)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("card", "ood"):
                raise InputError(
                    f"{type(self).__name__} was not trained on slides, so it has no card. Train it with "
                    f"`ds.models.train(slides, preset={self.system!r})`, or call `predict(bags)` on arrays."
                )
            return super().__getattr__(name)

    def check_parameters(self) -> None:
        """Raise if a parameter is out of range."""
        for name in ("width", "spots_per_step", "epochs", "max_epochs", "patience"):
            check_count(getattr(self, name), name)
        check_positive(self.lr, "lr")
        if not 0 <= self.dropout < 1:
            raise InputError(f"`dropout` must be at least 0 and below 1, got {self.dropout}.")

    def _check_targets(self, targets: np.ndarray) -> None:
        """Raise if the `targets` (n, genes) of the training spots do not fit."""
        if not np.isfinite(targets).any():
            raise InputError("No training spot has a measured gene. Choose other `rows`.")

    def _make(self, bags: Bags, targets: np.ndarray, rows: np.ndarray) -> CellNetwork:
        """Return the untrained network, with the scale of embeddings and genes in the training `rows`."""
        from torch import nn

        from .build import build

        return build(
            self.architecture,
            bags.dim,
            Scaler.fit(targets[rows]),
            spots=self._scale_of_spots(bags, rows),
            cells=self._scale_of_cells(bags, rows) if "subspots" in self.context else nn.Identity(),
            n_cells=self._n_cells(bags, rows),
            loss=getattr(self, "loss", "mse"),
        )

    def _n_cells(self, bags: Bags, rows: np.ndarray) -> float:
        """Return the mean number of cells of a spot if the targets are counts of which a cell has a part, else 0."""
        return 0.0

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        from deepspot._core.compute import choose_device
        from deepspot.models._network.network import BagDataset

        from .training import train_network

        self._check_bags(bags)
        self.check_parameters()
        self._check_targets(targets[rows])
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
        self.network, self.n_epochs = network.collapse(), epochs
        for stale in ("card", "ood"):  # of an earlier fit to slides
            vars(self).pop(stale, None)

    def predict(self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression (n, genes) of all spots, or of `rows`, whose neighbors may be other spots."""
        network = self.network
        parts = self._apply(lambda batch, tiles: network(batch, tiles).cpu().numpy(), bags, rows, device)
        return np.concatenate(parts).astype(np.float32)

    def expression_of_cells(
        self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Predict log-expression (m, genes) of the cells that exist, spot by spot, on a scale like that of spots."""
        raise NotImplementedError

    @classmethod
    def from_tensors(cls, card: CellModelCard, tensors: dict[str, Tensor], *, device: str | None = None) -> Self:
        """Return a fitted model, given its card and its :meth:`tensors`."""
        from .build import with_state

        of_class = {each.name for each in fields(cls)}
        known = card.network.model_dump() | card.training | {"seed": card.seed}
        scale = next((name for name, each in SCALES.items() if each.text == card.scale), None)
        known |= {} if scale is None else {"scale": scale}
        model = cls(**{name: value for name, value in known.items() if name in of_class}, device=device)
        state = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        model.network = with_state(card.network, card.dim, len(card.genes), state)
        model.card, model.n_epochs, model.ood = card, card.epochs, OODDetector.unknown(card.dim)
        if "novelty.core" in tensors:
            model.ood = OODDetector(*(tensors[f"novelty.{part}"].numpy() for part in ("core", "threshold")))
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers of the model, by their names in a bundle."""
        import torch

        known = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.ood.known:
            known["novelty.core"] = torch.from_numpy(self.ood.core)
            known["novelty.threshold"] = torch.from_numpy(self.ood.threshold)
        return known

    def _unpacked(self, values: np.ndarray, bags: Bags, rows: np.ndarray | None) -> np.ndarray:
        """Return values (m, genes) of the cells that exist as (n, s, genes), with NaN for the others."""
        exist = bags.exist[which_rows(rows, len(bags))]
        whole = np.full((*exist.shape, values.shape[1]), np.nan, dtype=np.float32)
        whole[exist] = values
        return whole

    def _apply(
        self,
        compute: Callable[[dict[str, Tensor], Tensor], Result],
        bags: Bags,
        rows: np.ndarray | None,
        device: str | None,
    ) -> list[Result]:
        """Return what is computed from each batch of the `rows`, and from φ of all spot tiles (n, width)."""
        import torch

        from deepspot._core.compute import choose_device

        from .training import batches

        network = self.network
        self._check_bags(bags)
        if bags.dim != network.dim:
            raise InputError(f"The model takes embeddings of length {network.dim}, got {bags.dim}.")
        wanted, target = which_rows(rows, len(bags)), choose_device(device or self.device)
        try:
            with torch.inference_mode():
                return [compute(*each) for each in batches(network, bags, self.context, wanted, target)]
        finally:
            network.cpu()

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
        spot, cell = np.nonzero(bags.exist[once])
        if len(spot) == 0:
            raise InputError("No training spot has a cell: `bags.present` is False everywhere.")
        if len(spot) > ENOUGH_CELLS:
            some = np.sort(np.random.default_rng(self._seed).choice(len(spot), ENOUGH_CELLS, replace=False))
            spot, cell = spot[some], cell[some]
        return Standardize(Scaler.fit(subspots[once[spot], cell]))
