"""A model on disk: a folder with `model.safetensors` and `card.json`. Nothing in it is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._fingerprint import digest

from ._card import ModelCard
from ._deepspot import DeepSpot
from ._novelty import Novelty
from ._scaler import Scaler
from .baselines import Ridge

if TYPE_CHECKING:
    from torch import Tensor

    from ._network import Network

WEIGHTS, CARD = "model.safetensors", "card.json"
FORMAT = 1


def save(model: DeepSpot, path: Path, *, half: bool, overwrite: bool) -> None:
    """Write a bundle; what was there stays whole until the new one is complete."""
    from safetensors.torch import save_file

    if model.card is None or model.scaler is None:
        raise ValueError("The model is not fitted yet, so there is nothing to save. Call `fit` first.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists. Pass `overwrite=True`, or another path.")
    if path.exists() and sorted(file.name for file in path.iterdir()) != [CARD, WEIGHTS]:
        raise ValueError(f"{path} exists and is no bundle, so it is not replaced. Choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        told = _card_hash(json.loads(model.card.model_dump_json()))
        save_file(_tensors(model, half=half), new / WEIGHTS, metadata={"card": told})
        card = model.card.model_copy(update={"sha256": _sha256(new / WEIGHTS)})
        (new / CARD).write_text(card.model_dump_json(indent=1))
        (new / WEIGHTS).chmod((new / CARD).stat().st_mode)  # safetensors lets nobody else read it
        load(new)  # what cannot be read again is not kept
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def load(path: Path, *, device: str | None = None) -> DeepSpot:
    """Read a bundle, refusing what is truncated, altered or from the future."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    card = read_card(path)
    weights = path / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{path} has no {WEIGHTS}. The bundle is incomplete: copy the whole folder.")
    if _sha256(weights) != card.sha256:
        raise ValueError(f"{weights} is not the file that its card describes: truncated or altered. Get a new copy.")
    try:
        tensors = {name: value.float() for name, value in load_file(weights).items()}
        with safe_open(weights, framework="pt") as file:
            told = (file.metadata() or {}).get("card")
    except SafetensorError as error:
        raise ValueError(f"{weights} is no readable safetensors file ({error}). Get a new copy.") from error
    if told != _card_hash(_content(path)):
        raise ValueError(f"{path / CARD} is not the card that the model was saved with: altered. Get a new copy.")
    model = DeepSpot(preset=card.preset, seed=card.seed, device=device)
    model.network, model.training, model.card = card.network, card.training, card
    _restore(model, card, tensors, weights)
    return model


def read_card(path: Path) -> ModelCard:
    """Read and check the card of a bundle."""
    from pydantic import ValidationError

    content = _content(path)
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path / CARD} does not describe a model: {error}") from error


def _content(path: Path) -> dict[str, Any]:
    file = path / CARD
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no model bundle: it has no {CARD}. Pass the folder that `save` made.")
    try:
        content = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no readable JSON ({error}). Get a new copy of the bundle.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file} has format {found!r}; this version reads format {FORMAT}. Update deepspot.")
    return content


def _tensors(model: DeepSpot, *, half: bool) -> dict[str, Tensor]:
    import torch

    tensors = {
        f"members.{number}.{name}": value.half() if half else value
        for number, member in enumerate(model.members)
        for name, value in member.state_dict().items()
    }
    scaler: Scaler = model.scaler  # type: ignore[assignment]
    if model.ridge is not None:
        ridge = {"ridge.coef": model.ridge.coef, "ridge.intercept": model.ridge.intercept}
        tensors |= {
            name: torch.from_numpy(value).to(torch.half if half else torch.float) for name, value in ridge.items()
        }
    exact = {"scaler.mean": scaler.mean, "scaler.std": scaler.std}
    if model.ridge is not None and model.ridge.scaler is not None:
        exact |= {"ridge.mean": model.ridge.scaler.mean, "ridge.std": model.ridge.scaler.std}
    if model.novelty is not None:
        exact["novelty.threshold"] = model.novelty.threshold
        core = torch.from_numpy(model.novelty.core)
        tensors["novelty.core"] = core.half() if half else core
    tensors |= {name: torch.from_numpy(value) for name, value in exact.items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def _restore(model: DeepSpot, card: ModelCard, tensors: dict[str, Tensor], file: Path) -> None:
    """Fill a model with the tensors of its file, all of which have to be used."""
    import torch

    def take(name: str, *shape: int) -> np.ndarray:
        value = tensors.pop(name, None)
        if value is None or value.shape != shape:
            raise ValueError(f"{file} does not fit its card: {name!r} must be of shape {shape}.")
        return value.numpy()

    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"{file} holds weights that are not finite. Get a new copy.")
    n = len(card.genes)

    def scaler(name: str) -> Scaler:
        found = Scaler(mean=take(f"{name}.mean", n), std=take(f"{name}.std", n))
        if (found.std <= 0).any():
            raise ValueError(f"{file} holds a scale that is not positive. Get a new copy.")
        return found

    model.scaler = scaler("scaler")
    if model.weight < 1:
        width = len(card.network.context) * card.dim
        model.ridge = Ridge(context=card.network.context)
        model.ridge.coef, model.ridge.intercept = take("ridge.coef", width, n), take("ridge.intercept", n)
        model.ridge.scaler = scaler("ridge")
    core = tensors.get("novelty.core")
    rows = 0 if core is None else len(core)
    kept = {"core": take("novelty.core", rows, card.dim), "threshold": take("novelty.threshold", 1)}
    try:
        model.novelty = Novelty.from_arrays(kept)
    except ValueError as error:
        raise ValueError(f"{file} does not fit its card: {error}") from error
    model.members = _members(card, tensors, file) if model.weight > 0 else []
    if tensors:
        raise ValueError(f"{file} does not fit its card: it holds {sorted(tensors)[:3]}, which no part of it uses.")


def _members(card: ModelCard, tensors: dict[str, Tensor], file: Path) -> list[Network]:
    from ._network import Network

    # ρ was collapsed to one layer when the model was fitted.
    collapsed = card.network.model_copy(update={"n_rho": 1})
    members = []
    for number in range(card.network.members):
        prefix = f"members.{number}."
        names = [name for name in tensors if name.startswith(prefix)]
        mine = {name.removeprefix(prefix): tensors.pop(name) for name in names}
        member = Network(collapsed, card.dim, len(card.genes)).eval()
        try:
            member.load_state_dict(mine)
        except RuntimeError as error:
            raise ValueError(f"{file} does not fit its card: {error}") from error
        members.append(member)
    return members


def _card_hash(content: dict[str, Any]) -> str:
    # Of what is written, not of what is read: a later version may add fields with defaults.
    return digest({key: value for key, value in content.items() if key != "sha256"})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
