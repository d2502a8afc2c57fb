"""A model as named tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot.models._baselines import Ridge
from deepspot.models._confidence.ood import LEAST, Novelty
from deepspot.models._network.scaler import Scaler

from .card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

    from deepspot.models._deepspot import DeepSpot
    from deepspot.models._network.network import Network

# Products of weights beyond it, summed over an embedding, overflow.
LARGEST = 1e9


def tensors_of(model: DeepSpot, *, half: bool) -> dict[str, Tensor]:
    """All that a prediction needs; `half` keeps the large ones in float16."""
    import torch

    tensors = {
        f"members.{number}.{name}": value
        for number, member in enumerate(model.members)
        for name, value in member.state_dict().items()
    }
    scaler: Scaler = model.scaler  # type: ignore[assignment]
    exact = {"scaler.mean": scaler.mean, "scaler.std": scaler.std}
    if model.ridge is not None and model.ridge.scaler is not None:
        ridge = {"ridge.coef": model.ridge.coef, "ridge.intercept": model.ridge.intercept}
        tensors |= {name: torch.from_numpy(value) for name, value in ridge.items()}
        exact |= {"ridge.mean": model.ridge.scaler.mean, "ridge.std": model.ridge.scaler.std}
    if model.novelty is not None:
        tensors["novelty.core"] = torch.from_numpy(model.novelty.core)
        exact["novelty.threshold"] = model.novelty.threshold
    tensors = {name: value.half() if half else value.float() for name, value in tensors.items()}
    tensors |= {name: torch.from_numpy(value).float() for name, value in exact.items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def restore(model: DeepSpot, card: ModelCard, tensors: dict[str, Tensor], file: str) -> None:
    """Fill a model with the tensors of its file, whose names and shapes are those that its card asks for."""
    import torch

    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"{file} holds weights that are not finite. Get a new copy.")
    largest = max(float(value.abs().max()) for value in tensors.values())
    if largest > LARGEST:
        raise ValueError(f"{file} holds weights as large as {largest:.0e}, which no model has. Get a new copy.")

    def scaler(name: str) -> Scaler:
        found = Scaler(mean=tensors[f"{name}.mean"].numpy(), std=tensors[f"{name}.std"].numpy())
        if (found.std <= 0).any():
            raise ValueError(f"{file} holds a scale that is not positive. Get a new copy.")
        return found

    model.scaler = scaler("scaler")
    if "ridge.coef" in tensors:
        model.ridge = Ridge(context=card.network.context)
        model.ridge.coef, model.ridge.intercept = tensors["ridge.coef"].numpy(), tensors["ridge.intercept"].numpy()
        model.ridge.scaler = scaler("ridge")
    if "novelty.core" in tensors:
        model.novelty = _novelty(tensors, file)
    model.members = _members(card, tensors) if model.weight > 0 else []


def _novelty(tensors: dict[str, Tensor], file: str) -> Novelty:
    kept = {name: tensors[f"novelty.{name}"].numpy() for name in ("core", "threshold")}
    # What `Novelty.fit` makes: lengths of 1, but for float16, or 0. Else the distances are none.
    if kept["threshold"][0] < np.float32(LEAST) or (np.linalg.norm(kept["core"], axis=1) > 1.01).any():
        raise ValueError(f"{file} does not fit its card: its 'novelty' is no set of embeddings with a distance.")
    return Novelty.from_arrays(kept)


def _members(card: ModelCard, tensors: dict[str, Tensor]) -> list[Network]:
    import torch

    from deepspot.models._network.network import Network

    collapsed = card.network.model_copy(update={"n_rho": 1})
    members = []
    for number in range(card.network.members):
        prefix = f"members.{number}."
        mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        with torch.device("meta"):  # takes neither memory nor random numbers
            member = Network(collapsed, card.dim, len(card.genes)).eval()
        member.load_state_dict(mine, assign=True)
        members.append(member)
    return members
