"""Fitted models: prediction and confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from deepspot._core.hashing import digest
from deepspot._features.bags import Bags
from deepspot._stats.normalize import LOG1P_10K
from deepspot.errors import InputError

from ._bundled import BundledModel
from ._inputs import Scaler, check_context, which_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ._baselines import Ridge
    from ._bundle.card import ModelCard
    from ._confidence.ood import OODDetector
    from ._network.config import NetworkConfig, TrainingConfig
    from ._network.network import Network


class FittedModel(BundledModel):
    """A fitted model: prediction and confidence.

    The prediction is the mean of the networks in `members`, `ridge`, or a blend of both; the part that is not used is
    empty or not fitted. The scores of `ood` are NaN if the training data are unknown. `history` is None if ridge
    predicts alone, `out_of_fold` is None if the gate is off, and both are None after loading.
    """

    preset: str
    network: NetworkConfig
    training: TrainingConfig
    seed: int
    card: ModelCard
    scaler: Scaler
    members: list[Network]
    ridge: Ridge
    ood: OODDetector
    history: pd.DataFrame | None
    out_of_fold: np.ndarray | None

    if not TYPE_CHECKING:  # type checkers should report attributes that do not exist

        def __getattr__(self, name: str) -> Any:
            """Raise NotFittedError for the attributes and properties of a fitted model."""
            if not self._is_fitted and (name in FittedModel.__annotations__ or hasattr(type(self), name)):
                from sklearn.exceptions import NotFittedError

                raise NotFittedError("The model is not fitted yet. Call `fit`, or load one with `ds.models.load`.")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _is_fitted(self) -> bool:
        return "card" in vars(self)

    @property
    def weight(self) -> float:
        """Share of the network in the prediction; the rest is ridge."""
        return 1.0 if self.card.gate is None else self.card.gate.weight

    @property
    def context(self) -> tuple[str, ...]:
        """Embeddings that the model uses: of the spot, its sub-spots, its neighbors."""
        return self.card.network.context

    @property
    def fingerprint(self) -> str:
        """Content hash of everything that a prediction depends on: weights, scale, genes, geometry and encoder."""
        weights = [
            [name, digest(value.numpy())] for member in self.members for name, value in member.state_dict().items()
        ]
        fields = {"genes", "network", "geometry", "encoder_fingerprint"}
        if self.card.scale != LOG1P_10K.text:  # other scales were added later, and fingerprints must not change
            fields.add("scale")
        card = self.card.model_dump(mode="json", include=fields)
        ridge = [self.ridge.coef, self.ridge.intercept, *self._bounds().values()] if self.weight < 1 else []
        calibrated = [self.calibration_hash] if self.card.calibrated_on else []
        return digest(self.scaler.mean, self.scaler.std, weights, card, self.weight, *ridge, *calibrated)

    def _bounds(self) -> dict[str, np.ndarray]:
        """Return the bounds of the features of ridge by their names in a bundle, if there are any."""
        bounds = {"ridge.low": self.ridge.low, "ridge.high": self.ridge.high}
        return bounds if all(np.isfinite(bound).all() for bound in bounds.values()) else {}

    def predict(self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression from embeddings.

        Parameters
        ----------
        bags
            Embeddings of n spots. If the model sums over sub-spots and the bags have another number of them than the
            training tiles (``card.geometry``), the sum is scaled to that number, unless the sub-spots are nuclei or the
            bags say which are present.
        device
            Device; None takes that of the model.
        rows
            Spots to predict, as row numbers in any order or as a mask; the others serve as neighbors only. By default
            all.

        Returns
        -------
        (n, genes) or (rows, genes) in float32, on the scale ``card.scale``. Values can be below 0, and above the
        highest possible value for tissue that is unlike the training tissue: ridge and the last layer of the network
        are linear. See :func:`deepspot.tl.predict`, which clips them.

        Raises
        ------
        ValueError
            If the model is not fitted, the embeddings have another length or lack a set that the model uses, or `rows`
            do not exist.
        """
        from ._network.network import infer

        if bags.dim != self.card.dim:
            raise InputError(f"The model takes embeddings of length {self.card.dim}, got {bags.dim}.")
        check_context(self.card.network.context, bags)
        rows = which_rows(rows, len(bags))
        expression = np.zeros((len(rows), len(self.card.genes)), dtype=np.float32)
        if self.weight > 0:
            tile = None if self.card.geometry is None else self.card.geometry.tile
            n_subspots = None if tile is None or tile.subspots == "nuclei" else tile.grid**2
            scores = infer(self.members, bags, device or self.device, rows=rows, n_subspots=n_subspots)
            expression += self.weight * self.scaler.restore(scores)
        if self.weight < 1:
            expression += (1 - self.weight) * self.ridge.predict(bags, rows=rows)
        return expression

    @classmethod
    def from_tensors(cls, card: ModelCard, tensors: dict[str, Tensor], *, device: str | None = None) -> Self:
        """Return a fitted model, given its card and its :meth:`tensors`."""
        from ._baselines import Ridge
        from ._confidence.ood import OODDetector
        from ._network.network import Network

        arrays = {name: value.numpy() for name, value in tensors.items() if not name.startswith("members.")}
        model = cls.__new__(cls)
        model.preset, model.seed, model.device = card.preset, card.seed, device
        model.network, model.training, model.card = card.network, card.training, card
        model.scaler = Scaler(arrays["scaler.mean"], arrays["scaler.std"])
        model.members = []
        for number in range(card.network.members if model.weight > 0 else 0):
            prefix = f"members.{number}."
            state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            model.members.append(Network.from_state(card.network, state))
        model.ridge = Ridge(context=card.network.context)
        if model.weight < 1:
            model.ridge.coef, model.ridge.intercept = arrays["ridge.coef"], arrays["ridge.intercept"]
            if "ridge.low" in arrays:  # bundles from before the bounds do not clip
                model.ridge.low, model.ridge.high = arrays["ridge.low"], arrays["ridge.high"]
            model.ridge.scaler = Scaler(arrays["ridge.mean"], arrays["ridge.std"])
        model.ood = OODDetector.unknown(card.dim)
        if "novelty.core" in arrays:
            model.ood = OODDetector(arrays["novelty.core"], arrays["novelty.threshold"])
        model.history = model.out_of_fold = None
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers of the model, by their names in a bundle."""
        import torch

        arrays: dict[str, Any] = {"scaler.mean": self.scaler.mean, "scaler.std": self.scaler.std}
        if self.weight < 1:
            arrays |= {"ridge.coef": self.ridge.coef, "ridge.intercept": self.ridge.intercept}
            arrays |= {"ridge.mean": self.ridge.scaler.mean, "ridge.std": self.ridge.scaler.std}
            arrays |= self._bounds()
        if self.ood.known:
            arrays |= {"novelty.core": self.ood.core, "novelty.threshold": self.ood.threshold}
        members = {
            f"members.{number}.{name}": value
            for number, member in enumerate(self.members)
            for name, value in member.state_dict().items()
        }
        return members | {name: torch.from_numpy(value) for name, value in arrays.items()}
