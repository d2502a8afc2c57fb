"""Bundles: a model as a folder with card.json and model.safetensors. Nothing in it is unpickled or executed."""

from __future__ import annotations

import hashlib
import json
import re
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot._core.atomic import replace_folder
from deepspot.errors import InputError

from .card import MOST_CORE, CellModelCard, ModelCard, StoredCard
from .parse import LARGEST_CARD, card_hash, expected_shapes, parse_card, parse_content, short, strict_json

if TYPE_CHECKING:
    from torch import Tensor

CARD, WEIGHTS = "card.json", "model.safetensors"
# Last parts of the names of tensors that are always kept in float32: scores are multiplied or divided by them.
EXACT = ("mean", "std", "low", "high", "rate", "n_cells", "threshold")
TYPES = {"F16": "float16", "F32": "float32"}
LARGEST_HEADER = 4_000_000
# Products of larger weights, summed over an embedding, overflow.
LARGEST_WEIGHT = 1e9
# Length of the training spots of the OOD detector up to rounding in float16, and its smallest threshold.
CORE_LENGTH, LEAST_DISTANCE = 1.01, 1e-6


def read_card(path: Path) -> ModelCard | CellModelCard:
    """Read and check the card of a bundle."""
    return parse_card(_read_content(path), str(path / CARD))


def read_bundle(path: Path, sha256: str | None = None) -> tuple[ModelCard | CellModelCard, dict[str, Tensor]]:
    """Read card and tensors (float32) of a bundle; refuse a truncated, altered or too large one.

    The size of the card is limited before it is parsed, the card limits the size of the weights before these are read,
    and their header is compared with the card before a tensor is made. `sha256` is the expected hash of the weights.
    """
    content, file = _read_content(path), str(path / WEIGHTS)
    card = parse_card(content, str(path / CARD))
    if sha256 is not None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise InputError(f"`sha256` must be 64 hexadecimal digits, those of `model.card.sha256`; got {sha256!r}.")
        if card.sha256 != sha256.lower():
            raise InputError(f"{path} is not the expected model: its `sha256` is {card.sha256[:64]!r}, not {sha256!r}.")
    raw = _read(path, WEIGHTS, largest_weights(card, str(path / CARD)))
    if _sha256(raw) != card.sha256:
        raise InputError(f"{file} is not the file that its card describes: truncated or altered. Get a new copy.")
    return card, _parse_weights(raw, content, card, file)


def largest_weights(card: StoredCard, file: str) -> int:
    """Return the largest size in bytes that the weights of a model can have; errors name the card's `file`."""
    numbers = sum(map(prod, expected_shapes(card, file).values()))
    optional = MOST_CORE * card.dim + 1 + 2 * len(card.context) * card.dim
    return 8 + LARGEST_HEADER + 4 * (numbers + optional)


def write_bundle(
    card: StoredCard, tensors: dict[str, Tensor], path: Path, *, half_precision: bool, overwrite: bool
) -> None:
    """Write a bundle, and replace an existing one only when the new one is complete and readable."""
    if re.match(r"hf:/", str(path)):
        raise InputError(f"`save` writes to a folder. Call `model.upload` to send a model to {str(path)!r}.")
    if path.suffix.lower() == ".zip":
        raise InputError(
            f"Models are saved as a folder, not as a zip like {path}. Pass {str(path.with_suffix(''))!r}, and zip the "
            "folder yourself to send it as one file."
        )
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. Pass `overwrite=True`, or another path.")
    if path.exists() and not _is_bundle(path):
        raise InputError(f"{path} exists and is not a bundle, so it is not replaced. Choose another path.")
    with replace_folder(path, overwrite=overwrite) as new:
        new.mkdir()
        write_files(card, tensors, new, half_precision=half_precision)
        read_bundle(new)


def write_files(card: StoredCard, tensors: dict[str, Tensor], folder: Path, *, half_precision: bool) -> None:
    """Write the two files of a bundle to a folder, with weights in float16 if `half_precision`."""
    from safetensors.torch import save

    kept = {
        name: (value.half() if half_precision and name.rpartition(".")[2] not in EXACT else value.float()).contiguous()
        for name, value in tensors.items()
    }
    # Not `save_file`, whose errors of the disk are no OSError, and whose files only their owner can read.
    raw = save(kept, metadata={"card": card_hash(json.loads(card.model_dump_json()))})
    (folder / WEIGHTS).write_bytes(raw)
    card = card.model_copy(update={"sha256": _sha256(raw)})
    (folder / CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")


def _is_bundle(path: Path) -> bool:
    """Return whether a folder contains the two files of a bundle and nothing else that would be lost."""
    if path.is_symlink() or not path.is_dir() or {file.name for file in path.iterdir()} != {CARD, WEIGHTS}:
        return False
    try:
        _read_content(path)
    except (OSError, ValueError):
        return False
    return (path / WEIGHTS).is_file()


def _read_content(path: Path) -> dict[str, Any]:
    """Read the JSON of a card, of which only the format is checked."""
    return parse_content(_read(path, CARD, LARGEST_CARD), str(path / CARD))


def _read(path: Path, name: str, limit: int) -> bytes:
    """Read a file of a bundle that has at most `limit` bytes."""
    file = path / name
    if path.is_file():
        raise InputError(
            f"{path} is a file, and a model is a folder with {CARD} and {WEIGHTS}. If it is a zip, unpack it and pass "
            "the folder."
        )
    if not file.is_file() and name == CARD:
        raise FileNotFoundError(f"{path} is not a model bundle: it has no {CARD}. Pass the folder that `save` made.")
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no {name}. The bundle is incomplete: get all of it again.")
    if file.stat().st_size > limit:
        raise InputError(f"{file} is larger than the limit of {limit:,} bytes: altered. Get a new copy.")
    return file.read_bytes()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _parse_weights(raw: bytes, content: dict[str, Any], card: StoredCard, file: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in float32, after all checks against the card and its JSON `content`."""
    import torch
    from safetensors import SafetensorError, deserialize

    length = int.from_bytes(raw[:8], "little")
    if length > min(LARGEST_HEADER, len(raw)):
        raise InputError(f"{file} is not a readable safetensors file: its header is incomplete. Get a new copy.")
    try:
        parts = dict(deserialize(raw))  # checks the header and the position of each tensor, but makes no tensor
    except SafetensorError as error:
        raise InputError(f"{file} is not a readable safetensors file ({short(str(error))}). Get a new copy.") from error
    metadata = strict_json(raw[8 : 8 + length], f"The header of {file}").get("__metadata__") or {}
    sealed = metadata.get("card", "")  # the first bundles have 16 of its 64 digits
    if len(sealed) not in (16, 64) or not card_hash(content).startswith(sealed):
        raise InputError(f"{file} was saved with another card.json: one of the two was altered. Get a new copy.")
    _check_header(parts, card, file)
    tensors = {
        key: torch.frombuffer(part["data"], dtype=getattr(torch, TYPES[part["dtype"]])).reshape(part["shape"]).float()
        for key, part in parts.items()
    }
    _check_numbers(tensors, file)
    return tensors


def _check_header(parts: dict[str, Any], card: StoredCard, file: str) -> None:
    """Raise unless the file contains exactly the tensors that the card describes."""
    expected = expected_shapes(card, file)
    if {"novelty.core", "novelty.threshold"} & set(parts):
        rows = (parts.get("novelty.core", {}).get("shape") or [0])[0]
        rows = rows if 0 < rows <= MOST_CORE else MOST_CORE
        expected |= {"novelty.core": (rows, card.dim), "novelty.threshold": (1,)}
    if {"ridge.low", "ridge.high"} & set(parts) and "ridge.coef" in expected:
        expected |= dict.fromkeys(("ridge.low", "ridge.high"), expected["ridge.coef"][:1])
    for key, shape in expected.items():
        if key not in parts or parts[key]["shape"] != list(shape):
            raise InputError(f"{file} does not fit its card: {key!r} must be of shape {shape}.")
    if surplus := sorted(set(parts) - set(expected)):
        raise InputError(f"{file} does not fit its card: it holds {short(surplus)}, which the model does not use.")
    for key, part in parts.items():
        if part["dtype"] not in TYPES:
            raise InputError(f"{file} holds {key!r} as {part['dtype']!r}; weights are {' or '.join(TYPES)}.")


def _check_numbers(tensors: dict[str, Tensor], file: str) -> None:
    """Raise if predictions or OOD scores from these tensors would not be finite."""
    for value in tensors.values():
        if not value.isfinite().all():
            raise InputError(f"{file} holds weights that are not finite. Get a new copy.")
        if (largest := float(value.abs().max())) > LARGEST_WEIGHT:
            raise InputError(
                f"{file} holds weights as large as {largest:.0e}, above {LARGEST_WEIGHT:.0e}. Get a new copy."
            )
    if any((value <= 0).any() for key, value in tensors.items() if key.endswith(".std")):
        raise InputError(f"{file} holds a scale that is not positive. Get a new copy.")
    if "novelty.core" in tensors:
        lengths, threshold = tensors["novelty.core"].norm(dim=1), tensors["novelty.threshold"]
        if threshold < LEAST_DISTANCE or (lengths > CORE_LENGTH).any():
            raise InputError(f"{file} does not fit its card: its 'novelty' is not a set of embeddings with a distance.")
