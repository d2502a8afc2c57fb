"""A fitted model: what it knows, what it predicts, and how it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from deepspot._core.hashing import digest
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import RINGS
from deepspot.errors import InputError

from ._inputs import Scaler, which_rows

if TYPE_CHECKING:
    from torch import Tensor

    from deepspot._spatial.geometry import Geometry
    from deepspot.encoders import Encoder, EncoderCard

    from ._baselines import Ridge
    from ._bundle.card import ModelCard
    from ._confidence.ood import OODDetector
    from ._network.config import NetworkConfig, TrainingConfig
    from ._network.network import Network


class FittedModel:
    """What is known once a model is fitted, and all that needs no more than that.

    Attributes
    ----------
    card
        Genes, make-up, and what the model learned from.
    scaler
        Scale of the genes.
    members
        Networks, whose mean is the network's prediction; empty where ridge predicts alone.
    ridge
        The rest of the prediction; not fitted where the network predicts alone.
    ood
        Out-of-distribution detector; its scores are NaN where the training data are not known.
    history, out_of_fold
        Loss curves, and predictions by fits that had not seen the spot. None where ridge predicts alone, where the gate
        is off, and after loading.
    device
        Where to compute.
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
    device: str | None = None

    if not TYPE_CHECKING:  # an attribute that does not exist shall stay an error for the type checker

        def __getattr__(self, name: str) -> Any:
            """Say what to do where something is asked of a model that is not fitted yet."""
            # A property that asks for the card of such a model ends here too.
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
    def geometry(self) -> Geometry:
        """Tiles and neighbors of the training; a ValueError where the model was fitted to arrays."""
        return self._of_slides()[0]

    @property
    def encoder_card(self) -> EncoderCard:
        """Card of the encoder of the training; a ValueError where the model was fitted to arrays."""
        return self._of_slides()[1]

    def _of_slides(self) -> tuple[Geometry, EncoderCard]:
        """What only a model knows that was trained on slides."""
        if self.card.geometry is None or self.card.encoder is None:
            raise InputError(
                "The model was fitted on bare arrays, so its encoder and tile size are unknown. Train it on slides "
                "with `ds.models.train`, or call `model.predict(bags)` on arrays."
            )
        return self.card.geometry, self.card.encoder

    @property
    def fingerprint(self) -> str:
        """Content hash of all that a prediction depends on: weights, scale, genes, make-up, geometry and encoder."""
        weights = [
            [name, digest(value.numpy())] for member in self.members for name, value in member.state_dict().items()
        ]
        needs = self.card.model_dump(mode="json", include={"genes", "network", "geometry", "encoder_fingerprint"})
        ridge = [self.ridge.coef, self.ridge.intercept] if self.weight < 1 else []
        return digest(self.scaler.mean, self.scaler.std, weights, needs, self.weight, *ridge)

    def predict(self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression (n, genes) in float32; it may fall slightly below 0.

        Every tile goes through φ once, and neighbors are looked up.

        Parameters
        ----------
        bags
            Embeddings of n spots. Where the model sums over sub-spots, and the bags hold another number of them than
            the tile that it was trained with (``card.geometry``), the sum is scaled to that number.
        device
            Where to compute; None takes the one of the model.
        rows
            Which of the spots to predict, as numbers in the wanted order or as a mask; the others are there as
            neighbors. By default all.

        Raises
        ------
        ValueError
            If the model is not fitted, the embeddings have another length or lack a set that it uses, or there are no
            such rows.
        """
        from ._network.network import infer

        if bags.dim != self.card.dim:
            raise InputError(f"The model takes embeddings of length {self.card.dim}, got {bags.dim}.")
        check_context(self.card.network.context, bags)
        rows = which_rows(rows, len(bags))
        expression = np.zeros((len(rows), len(self.card.genes)), dtype=np.float32)
        if self.weight > 0:
            count = None if self.card.geometry is None else self.card.geometry.tile.grid**2
            scores = infer(self.members, bags, device or self.device, rows=rows, count=count)
            expression += self.weight * self.scaler.restore(scores)
        if self.weight < 1:
            expression += (1 - self.weight) * self.ridge.predict(bags, rows=rows)
        return expression

    def ood_score(self, spot: np.ndarray) -> np.ndarray:
        """How unlike the training data every spot (n, d) is (n,), above 1 if strange; NaN where they are not known."""
        return self.ood.score(spot)

    def expected_r(self) -> pd.DataFrame:
        """Expected r of every gene and its interval, for `var` of a prediction; NaN where it was not measured."""
        var = pd.DataFrame(index=pd.Index(self.card.genes))
        for column, field in {"expected_r": "r", "expected_r_low": "r_low", "expected_r_high": "r_high"}.items():
            values = np.nan if self.card.reliability is None else getattr(self.card.reliability, field)
            var[column] = np.asarray(values, dtype=np.float32) * np.ones(len(var), dtype=np.float32)
        return var

    def half_width(self) -> np.ndarray:
        """Half width (genes,) of the interval of every gene; a ValueError where the model has none."""
        reliability = self.card.reliability
        if reliability is None or reliability.half_width is None:
            why = "its gate was switched off" if reliability is None else reliability.why_no_interval
            raise InputError(
                f"Model {self.card.name!r} has no intervals: {why.rstrip('.')}. Leave `intervals` out, or train on "
                "more patients."
            )
        return np.array(reliability.half_width, dtype=np.float32)

    def residuals(self) -> pd.DataFrame:
        """`dispersion` of every gene; the median of the others where a gene's own is unknown."""
        known = self.card.reliability
        if known is None or known.dispersion is None:
            raise InputError(
                f"Model {self.card.name!r} does not know how far its predictions are off "
                "(`card.reliability.dispersion`), so a measurement cannot be weighed against them. Train it again with "
                "`ds.models.train`, or take `method='replace'`."
            )
        found = pd.DataFrame({"dispersion": known.dispersion}, index=pd.Index(self.card.genes), dtype=float)
        return found.fillna(found.median()).fillna(0.0)

    @property
    def spacing_um(self) -> float:
        """Distance in µm between the spots of the training; a ValueError where the card does not say it."""
        rule = self.geometry.neighbors
        if rule.kind != "radius":
            raise InputError(
                f"Model {self.card.name!r} counts its neighbors in steps of an array of spots, and its card does not "
                "say how far apart these were. Give the distance between spots as `pitch_um=`: for Visium it is 100."
            )
        return round(rule.reach / RINGS, 1)

    def spot_size(self, diameter_um: float | None = None, pitch_um: float | None = None) -> tuple[float, float]:
        """Return diameter and pitch of spots in µm: as given, by default those of the training."""
        tile = self.geometry.tile
        diameter = tile.tile_um if diameter_um is None else diameter_um
        pitch = self.spacing_um if pitch_um is None else pitch_um
        return float(check_positive(diameter, "diameter_um")), float(check_positive(pitch, "pitch_um"))

    def get_encoder(self, given: str | Encoder | None = None) -> Encoder:
        """The encoder that the model was trained on: by the name in its card, or as given."""
        from deepspot import encoders
        from deepspot.encoders._lazyslide import PREFIX

        card, needed = self.card, self.encoder_card.name
        if given is None and needed.startswith(PREFIX):
            raise InputError(
                f"Model {card.name!r} needs encoder {needed!r}, which loads its own weights with code of "
                "lazyslide-models. If you want that, pass it as `encoder=`."
            )
        ready = encoders.get(needed if given is None else given)
        if ready.card.dim != card.dim:
            raise InputError(
                f"Model {card.name!r} takes {card.dim} numbers per tile, and encoder {ready.card.name!r} gives "
                f"{ready.card.dim}. Pass the encoder that it was trained on with `encoder=`."
            )
        if card.encoder_fingerprint and ready.fingerprint != card.encoder_fingerprint:
            raise InputError(
                f"The model was trained on encoder {needed!r} with other weights or preprocessing than "
                f"{ready.card.name!r} has here. Pass the encoder that it was trained on with `encoder=`."
            )
        if not card.encoder_fingerprint and ready.card.name != needed:  # a converted checkpoint knows no more
            logger.warning(
                "Model %r needs encoder %r by its card, and %r is used: its predictions mean nothing unless both are "
                "the same.",
                *(card.name, needed, ready.card.name),
            )
        return ready

    @classmethod
    def from_tensors(cls, card: ModelCard, tensors: dict[str, Tensor], *, device: str | None = None) -> Self:
        """Build a fitted model from its card and its :meth:`tensors`."""
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
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            model.members.append(Network.from_state(card.network, own))
        model.ridge = Ridge(context=card.network.context)
        if model.weight < 1:
            model.ridge.coef, model.ridge.intercept = arrays["ridge.coef"], arrays["ridge.intercept"]
            model.ridge.scaler = Scaler(arrays["ridge.mean"], arrays["ridge.std"])
        model.ood = OODDetector.unknown(card.dim)
        if "novelty.core" in arrays:
            model.ood = OODDetector(arrays["novelty.core"], arrays["novelty.threshold"])
        model.history = model.out_of_fold = None
        return model

    def tensors(self) -> dict[str, Tensor]:
        """All numbers that a prediction needs, by the names that they have in a bundle."""
        import torch

        arrays: dict[str, Any] = {"scaler.mean": self.scaler.mean, "scaler.std": self.scaler.std}
        if self.weight < 1:
            arrays |= {"ridge.coef": self.ridge.coef, "ridge.intercept": self.ridge.intercept}
            arrays |= {"ridge.mean": self.ridge.scaler.mean, "ridge.std": self.ridge.scaler.std}
        if self.ood.known:
            arrays |= {"novelty.core": self.ood.core, "novelty.threshold": self.ood.threshold}
        members = {
            f"members.{number}.{name}": value
            for number, member in enumerate(self.members)
            for name, value in member.state_dict().items()
        }
        return members | {name: torch.from_numpy(value) for name, value in arrays.items()}

    def save(self, path: str | Path, *, half: bool = False, overwrite: bool = False) -> None:
        """Save as a bundle: a folder with ``model.safetensors`` and ``card.json``.

        Parameters
        ----------
        path
            Folder to make.
        half
            Keep the weights in float16, half as large; expression changes in the third decimal.
        overwrite
            Replace a bundle that is there.
        """
        from ._bundle.bundle import write_bundle

        write_bundle(self.card, self.tensors(), Path(path), half=half, overwrite=overwrite)

    def upload(self, address: str, *, token: str | None = None, private: bool = True, half: bool = False) -> str:
        """Upload the bundle, and its card as a page, to a repository on Hugging Face.

        Parameters
        ----------
        address
            ``"hf://organization/name"``. The repository is made if there is none.
        token, half
            Access token that may write; None takes ``HF_TOKEN`` or that of the machine. Half precision, as in `save`.
        private
            Keep it private, and refuse a public repository. The card names slides and patients.

        Returns
        -------
        Address of this very version, for :func:`deepspot.models.load`.
        """
        from ._bundle.hub import upload

        return upload(self.card, self.tensors(), address, token=token, private=private, half=half)


def check_context(context: tuple[str, ...], bags: Bags) -> None:
    """Raise if bags lack a set that a model uses."""
    if "subspots" in context and bags.subspots is None:
        raise InputError("The model uses sub-spots, but there are none. Embed with `subspots=True`.")
