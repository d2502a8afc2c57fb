"""A model on disk: a folder with card.json and model.safetensors. Nothing in it is unpickled or executed."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot.errors import InputError

from .card import (
    CORE_LENGTH,
    LARGEST_CARD,
    LEAST_DISTANCE,
    MOST_CORE,
    ModelCard,
    card_hash,
    expected_shapes,
    parse_card,
    parse_content,
    short,
    strict_json,
)

if TYPE_CHECKING:
    from torch import Tensor

CARD, WEIGHTS = "card.json", "model.safetensors"
# Kept in float32 whatever the precision of the others: predictions and scores are multiplied or divided by them.
EXACT = ("scaler.mean", "scaler.std", "ridge.mean", "ridge.std", "novelty.threshold")


def read_card(path: Path) -> ModelCard:
    """Read and check the card of a bundle."""
    return parse_card(parse_content(_read(path, CARD, LARGEST_CARD), str(path / CARD)), str(path / CARD))


def read_bundle(path: Path, sha256: str | None = None) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read a bundle, refusing what is truncated, altered, from the future, or larger than its card says.

    The card is bounded before it is parsed, the weights are bounded by the card before they are read, and their header
    is compared with the card before a tensor is made. `sha256` is the hash that the weights must have. Tensors come in
    float32.
    """
    content = parse_content(_read(path, CARD, LARGEST_CARD), str(path / CARD))
    card = parse_card(content, str(path / CARD))
    if sha256 is not None:
        _check_pin(card.sha256, sha256, path)
    raw, file = _read(path, WEIGHTS, largest_weights(card, str(path / CARD))), str(path / WEIGHTS)
    if _sha256(raw) != card.sha256:
        raise InputError(f"{file} is not the file that its card describes: truncated or altered. Get a new copy.")
    return card, parse_weights(raw, content, card, file)


def write_bundle(card: ModelCard, tensors: dict[str, Tensor], path: Path, *, half: bool, overwrite: bool) -> None:
    """Write a bundle; what was there stays whole until the new one is complete. `half` writes float16."""
    if re.match(r"hf:/", str(path)):
        raise InputError(f"`save` writes to this machine. To send a model to {str(path)!r} call `model.upload`.")
    if path.suffix.lower() == ".zip":
        raise InputError(
            f"Models are saved as a folder, not as a zip like {path}. Pass {str(path.with_suffix(''))!r}, and zip the "
            "folder yourself to send it as one file."
        )
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. Pass `overwrite=True`, or another path.")
    if path.exists() and not _is_bundle(path):
        raise InputError(f"{path} exists and is no bundle, so it is not replaced. Choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        write_files(card, tensors, new, half=half)
        read_bundle(new)  # what cannot be read again is not kept
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def write_files(card: ModelCard, tensors: dict[str, Tensor], folder: Path, *, half: bool) -> None:
    """Write the two files of a bundle into a folder."""
    from safetensors.torch import save_file

    kept = {
        name: (value.half() if half and name not in EXACT else value.float()).contiguous()
        for name, value in tensors.items()
    }
    save_file(kept, folder / WEIGHTS, metadata={"card": card_hash(json.loads(card.model_dump_json()))})
    card = card.model_copy(update={"sha256": _sha256((folder / WEIGHTS).read_bytes())})
    (folder / CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
    (folder / WEIGHTS).chmod((folder / CARD).stat().st_mode)  # safetensors lets nobody else read it


def _read(path: Path, name: str, limit: int) -> bytes:
    """Read a file of a bundle that may have so many bytes."""
    file = path / name
    if path.is_file():
        raise InputError(
            f"{path} is a file, and a model is a folder with {CARD} and {WEIGHTS}. If it is a zip, unpack it and pass "
            "the folder."
        )
    if not file.is_file() and name == CARD:
        raise FileNotFoundError(f"{path} is no model bundle: it has no {CARD}. Pass the folder that `save` made.")
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no {name}. The bundle is incomplete: get all of it again.")
    if file.stat().st_size > limit:
        raise InputError(f"{file} is larger than the {limit:,} bytes that it may have: altered. Get a new copy.")
    return file.read_bytes()


def _check_pin(known: str, wanted: str, path: Path) -> None:
    """Raise unless a bundle is the one that was asked for."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise InputError(f"`sha256` must be 64 hexadecimal digits, those of `model.card.sha256`; got {wanted!r}.")
    if known != wanted.lower():
        raise InputError(f"{path} is not the model that was asked for: its `sha256` is {known[:64]!r}, not {wanted!r}.")


def _is_bundle(path: Path) -> bool:
    """Whether there are the two files of a bundle and nothing else that would be lost."""
    if path.is_symlink() or not path.is_dir() or {file.name for file in path.iterdir()} != {CARD, WEIGHTS}:
        return False
    try:
        parse_content(_read(path, CARD, LARGEST_CARD), str(path / CARD))
    except (OSError, ValueError):
        return False
    return (path / WEIGHTS).is_file()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


LARGEST_HEADER = 4_000_000
TYPES = {"F16": "float16", "F32": "float32"}
# Products of weights beyond it, summed over an embedding, overflow.
LARGEST_WEIGHT = 1e9


def largest_weights(card: ModelCard, name: str) -> int:
    """Most bytes that the weights of a model may have; `name` is the card's file."""
    numbers = sum(map(prod, expected_shapes(card, name).values()))
    return 8 + LARGEST_HEADER + 4 * (numbers + MOST_CORE * card.dim + 1)


def parse_weights(raw: bytes, content: dict[str, Any], card: ModelCard, name: str) -> dict[str, Tensor]:
    """Tensors in float32 out of a safetensors file, which must be those that its card asks for; `name` is the file."""
    import torch
    from safetensors import SafetensorError, deserialize

    length = int.from_bytes(raw[:8], "little")
    if length > min(LARGEST_HEADER, len(raw)):
        raise InputError(f"{name} is no readable safetensors file: its header does not end. Get a new copy.")
    try:
        found = dict(deserialize(raw))  # checks the header and where each tensor lies, and makes none yet
    except SafetensorError as error:
        raise InputError(f"{name} is no readable safetensors file ({short(str(error))}). Get a new copy.") from error
    metadata = strict_json(raw[8 : 8 + length], f"The header of {name}").get("__metadata__") or {}
    sealed = metadata.get("card", "")  # the first bundles have 16 of its 64 digits
    if len(sealed) not in (16, 64) or not card_hash(content).startswith(sealed):
        raise InputError(f"{name} was saved with another card.json: one of the two was altered. Get a new copy.")
    _check_header(found, card, name)
    tensors = {
        key: torch.frombuffer(part["data"], dtype=getattr(torch, TYPES[part["dtype"]])).reshape(part["shape"]).float()
        for key, part in found.items()
    }
    _check_numbers(tensors, name)
    return tensors


def _check_header(found: dict[str, Any], card: ModelCard, name: str) -> None:
    """Raise unless the tensors in a file are those that its card asks for, all of them and no others."""
    expected = expected_shapes(card, name)
    if {"novelty.core", "novelty.threshold"} & set(found):
        rows = (found.get("novelty.core", {}).get("shape") or [0])[0]
        rows = rows if 0 < rows <= MOST_CORE else MOST_CORE
        expected |= {"novelty.core": (rows, card.dim), "novelty.threshold": (1,)}
    for key, shape in expected.items():
        if key not in found or found[key]["shape"] != list(shape):
            raise InputError(f"{name} does not fit its card: {key!r} must be of shape {shape}.")
    if surplus := sorted(set(found) - set(expected)):
        raise InputError(f"{name} does not fit its card: it holds {short(surplus)}, which no part of it uses.")
    for key, part in found.items():
        if part["dtype"] not in TYPES:
            raise InputError(f"{name} holds {key!r} as {part['dtype']!r}; weights are {' or '.join(TYPES)}.")


def _check_numbers(tensors: dict[str, Tensor], name: str) -> None:
    """Raise if predictions or distances made of these numbers would not be finite."""
    for value in tensors.values():
        if not value.isfinite().all():
            raise InputError(f"{name} holds weights that are not finite. Get a new copy.")
        if (largest := float(value.abs().max())) > LARGEST_WEIGHT:
            raise InputError(f"{name} holds weights as large as {largest:.0e}, which no model has. Get a new copy.")
    if any((value <= 0).any() for key, value in tensors.items() if key.endswith(".std")):
        raise InputError(f"{name} holds a scale that is not positive. Get a new copy.")
    if "novelty.core" in tensors:
        lengths, threshold = tensors["novelty.core"].norm(dim=1), tensors["novelty.threshold"]
        if threshold < LEAST_DISTANCE or (lengths > CORE_LENGTH).any():
            raise InputError(f"{name} does not fit its card: its 'novelty' is no set of embeddings with a distance.")
