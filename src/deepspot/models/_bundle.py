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
from ._scaler import Scaler

if TYPE_CHECKING:
    from torch import Tensor

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
        save_file(_tensors(model, half=half), new / WEIGHTS, metadata={"card": _card_hash(model.card)})
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
    if told != _card_hash(card):
        raise ValueError(f"{path / CARD} is not the card that the model was saved with: altered. Get a new copy.")
    model = DeepSpot(preset=card.preset, seed=card.seed, device=device)
    model.network, model.training, model.card = card.network, card.training, card
    model.scaler, model.members = _restore(card, tensors, weights)
    return model


def read_card(path: Path) -> ModelCard:
    """Read and check the card of a bundle."""
    file = path / CARD
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no model bundle: it has no {CARD}. Pass the folder that `save` made.")
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no readable JSON ({error}). Get a new copy of the bundle.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file} has format {found!r}; this version reads format {FORMAT}. Update deepspot.")
    from pydantic import ValidationError

    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{file} does not describe a model: {error}") from error


def _tensors(model: DeepSpot, *, half: bool) -> dict[str, Tensor]:
    import torch

    tensors = {
        f"members.{number}.{name}": value.half() if half else value
        for number, member in enumerate(model.members)
        for name, value in member.state_dict().items()
    }
    scaler: Scaler = model.scaler  # type: ignore[assignment]
    scale = {"scaler.mean": torch.from_numpy(scaler.mean), "scaler.std": torch.from_numpy(scaler.std)}
    return {name: value.contiguous() for name, value in {**tensors, **scale}.items()}


def _restore(card: ModelCard, tensors: dict[str, Tensor], file: Path) -> tuple[Scaler, list[Any]]:
    import torch

    from ._network import Network

    def take(name: str) -> np.ndarray:
        value = tensors.pop(name, None)
        if value is None or value.shape != (len(card.genes),):
            raise ValueError(f"{file} does not fit its card: {name!r} must hold {len(card.genes)} values.")
        return value.numpy()

    scaler = Scaler(mean=take("scaler.mean"), std=take("scaler.std"))
    finite = all(torch.isfinite(value).all() for value in tensors.values()) and np.isfinite(scaler.mean).all()
    if not finite or not np.isfinite(scaler.std).all() or (scaler.std <= 0).any():
        raise ValueError(f"{file} holds weights that are not finite, or a scale that is not positive. Get a new copy.")
    # ρ was collapsed to one layer when the model was fitted.
    collapsed = card.network.model_copy(update={"n_rho": 1})
    members = []
    for number in range(card.network.members):
        prefix = f"members.{number}."
        mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        member = Network(collapsed, card.dim, len(card.genes)).eval()
        try:
            member.load_state_dict(mine)
        except RuntimeError as error:
            raise ValueError(f"{file} does not fit its card: {error}") from error
        members.append(member)
    return scaler, members


def _card_hash(card: ModelCard) -> str:
    return digest(json.loads(card.model_dump_json(exclude={"sha256"})))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
