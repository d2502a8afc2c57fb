"""What is checked of a card and of weights that nobody vouches for. Each check comes before what it protects."""

from __future__ import annotations

import hashlib
import json
import math
from math import prod
from typing import TYPE_CHECKING, Any

from deepspot.errors import InputError

from .card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
# 60,000 genes and all that is known of them. Every wrong value is an error of its own, which takes time and memory.
LARGEST_CARD, MOST_VALUES = 16_000_000, 500_000
# 4 GB of weights. The largest model of the paper has 16 million of them.
MOST_NUMBERS, MOST_TENSORS = 2**30, 10_000
LARGEST_HEADER = 4_000_000
TYPES = {"F16": "float16", "F32": "float32"}
# Products of weights beyond it, summed over an embedding, overflow.
LARGEST_WEIGHT = 1e9
# Embeddings of training spots in a bundle, their length up to the rounding of float16, and the distance to divide by.
MOST_CORE, CORE_LENGTH, LEAST_DISTANCE = 512, 1.01, 1e-6
# Seeds have at most 20 digits; a float never needs more than 17 of them.
MOST_DIGITS = 25
LONGEST_QUOTE, LONGEST_MESSAGE = 120, 400


def short(value: object) -> str:
    """What somebody else wrote, for a message: in quotes, on one line, and no longer than one."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"


def strict_json(raw: bytes, name: str) -> Any:
    """Parse JSON with one meaning: UTF-8, no key twice, no NaN or infinity, no endless integer; `name` is the file.

    Pydantic's parser takes the last of two equal keys, and infinity for 1e999.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InputError(f"it has {short(key)} twice")
            found[key] = value
        return found

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise InputError(f"{number[:MOST_DIGITS]} is no finite number")
        return value

    def whole(number: str) -> int:
        if len(number) > MOST_DIGITS:
            raise InputError(f"a number has {len(number)} digits")
        return int(number)

    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=finite, parse_float=finite, parse_int=whole
        )
    except RecursionError as error:
        raise InputError(f"{name} is nested deeper than any file of deepspot. Get a new copy of the bundle.") from error
    except ValueError as error:  # what is no JSON, no UTF-8, or refused above
        raise InputError(f"{name} is no readable JSON ({error}). Get a new copy of the bundle.") from error


def parse_content(raw: bytes, name: str) -> dict[str, Any]:
    """Parse a card of a known format, whatever its fields say; `name` is the file."""
    if raw.count(b",") > MOST_VALUES:
        raise InputError(f"{name} lists more than {MOST_VALUES:,} values, which no card does. Get a new copy.")
    content = strict_json(raw, name)
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is int and found > FORMAT:
        raise InputError(
            f"{name} has format {found}, of a later version: this one reads format {FORMAT}. Update deepspot."
        )
    if type(found) is not int or found != FORMAT:  # True is 1, but no format
        raise InputError(
            f"{name} has format {short(found)}, and only format {FORMAT} is known. Get a new copy of the bundle."
        )
    return content


def parse_card(content: dict[str, Any], name: str) -> ModelCard:
    """Check all that a card says, and that the model it describes is no larger than any real one."""
    from pydantic import ValidationError

    unknown = sorted(set(content) - set(ModelCard.model_fields) - {"licence"})
    if unknown:
        raise InputError(
            f"{name} does not describe a model: unknown fields {short(unknown)}. A newer deepspot may know them."
        )
    try:
        card = ModelCard.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors(include_input=False)]
        raise InputError(
            f"{name} does not describe a model ({'; '.join(wrong[:3])[:LONGEST_MESSAGE]}). Get a new copy."
        ) from error
    expected_shapes(card, name)
    return card


def card_hash(content: dict[str, Any]) -> str:
    """Hash of a card without that of its weights, which are not there yet when it is written into their file."""
    # Of what is written, not of what is read: a later version may add fields with defaults.
    kept = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode() + b"\0").hexdigest()


def expected_shapes(card: ModelCard, name: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model needs, but for the two of novelty, which it may do without.

    A model that is larger than any real one is refused; `name` is the card's file.
    """
    network, genes, weight = card.network, len(card.genes), 1.0 if card.gate is None else card.gate.weight
    sets = len(network.context)
    count = 2 * network.members * (network.n_phi + network.n_rho)
    if count > MOST_TENSORS:
        raise InputError(f"{name} describes a network of {count:,} parts, more than {MOST_TENSORS:,}. Get a new copy.")
    # ρ was collapsed to one layer when the model was fitted.
    member: dict[str, tuple[int, ...]] = {"rho.0.weight": (genes, sets * network.width), "rho.0.bias": (genes,)}
    for phi in range(network.n_phi):
        member |= {f"phi.{phi}.weight": (network.width, card.dim), f"phi.{phi}.bias": (network.width,)}
    members = {f"members.{i}.{part}": shape for i in range(network.members) for part, shape in member.items()}
    ridge: dict[str, tuple[int, ...]] = {"ridge.coef": (sets * card.dim, genes)}
    ridge |= {f"ridge.{part}": (genes,) for part in ("intercept", "mean", "std")}
    numbers = sum(map(prod, [*members.values(), *ridge.values(), (MOST_CORE, card.dim)]))
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"{name} describes a model of {numbers:,} numbers, more than {MOST_NUMBERS:,}. Get a new copy."
        )
    used = (members if weight > 0 else {}) | (ridge if weight < 1 else {})
    return {"scaler.mean": (genes,), "scaler.std": (genes,)} | used


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
