"""What a weights file must hold, worked out from the card, and compared with its header before anything is made."""

from __future__ import annotations

import json
import math
from math import prod
from typing import Any

from deepspot.models._confidence.ood import CORE

from .card import ModelCard

Shapes = dict[str, tuple[int, ...]]
# 4 GB of weights. The largest model of the paper has 16 million of them.
MOST_NUMBERS, MOST_TENSORS = 2**30, 10_000
LARGEST_HEADER = 4_000_000
TYPES = ("F16", "F32")


def shapes_of(card: ModelCard, name: str) -> Shapes:
    """Name and shape of every tensor that a model needs, but for the two of novelty, which it may do without.

    Raises
    ------
    ValueError
        If these are more than any real model has; `name` is the card's file.
    """
    network, genes, weight = card.network, len(card.genes), 1.0 if card.gate is None else card.gate.weight
    sets = len(network.context)
    count = 2 * network.members * (network.n_phi + network.n_rho)
    if count > MOST_TENSORS:
        raise ValueError(f"{name} describes a network of {count:,} parts, more than {MOST_TENSORS:,}. Get a new copy.")
    # ρ was collapsed to one layer when the model was fitted.
    member: Shapes = {"rho.0.weight": (genes, sets * network.width), "rho.0.bias": (genes,)}
    for phi in range(network.n_phi):
        member |= {f"phi.{phi}.weight": (network.width, card.dim), f"phi.{phi}.bias": (network.width,)}
    members = {f"members.{i}.{part}": shape for i in range(network.members) for part, shape in member.items()}
    ridge: Shapes = {"ridge.coef": (sets * card.dim, genes)}
    ridge |= {f"ridge.{part}": (genes,) for part in ("intercept", "mean", "std")}
    numbers = sum(map(prod, [*members.values(), *ridge.values(), (CORE, card.dim)]))
    if numbers > MOST_NUMBERS:
        raise ValueError(
            f"{name} describes a model of {numbers:,} numbers, more than {MOST_NUMBERS:,}. Get a new copy."
        )
    used = (members if weight > 0 else {}) | (ridge if weight < 1 else {})
    return {"scaler.mean": (genes,), "scaler.std": (genes,)} | used


def most_bytes(shapes: Shapes, dim: int) -> int:
    """Largest size of a file with these tensors."""
    return 8 + LARGEST_HEADER + 4 * (sum(map(prod, shapes.values())) + CORE * dim + 1)


def read_header(raw: bytes, name: str) -> dict[str, Any]:
    """Header of a safetensors file: what is said of each tensor, and ``__metadata__``."""
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(LARGEST_HEADER, len(raw) - 8):
        raise ValueError(f"{name} is no readable safetensors file: its header does not end. Get a new copy.")
    header = strict_json(raw[8 : 8 + length], f"The header of {name}")
    if not isinstance(header, dict) or not all(isinstance(part, dict) for part in header.values()):
        raise ValueError(f"{name} is no readable safetensors file: its header lists no tensors. Get a new copy.")
    return header


def check_header(header: dict[str, Any], shapes: Shapes, dim: int, name: str) -> None:
    """Raise unless the tensors in a file are those that its card asks for, all of them and no others."""
    found = {key: part for key, part in header.items() if key != "__metadata__"}
    expected = dict(shapes)
    if {"novelty.core", "novelty.threshold"} & set(found):
        expected |= {"novelty.core": (_rows(found, dim), dim), "novelty.threshold": (1,)}
    for key, shape in expected.items():
        if key not in found or found[key].get("shape") != list(shape):
            raise ValueError(f"{name} does not fit its card: {key!r} must be of shape {shape}.")
    if surplus := sorted(set(found) - set(expected)):
        raise ValueError(f"{name} does not fit its card: it holds {short(surplus)}, which no part of it uses.")
    for key, part in found.items():
        if part.get("dtype") not in TYPES:
            raise ValueError(f"{name} holds {key!r} as {short(part.get('dtype'))}; weights are {' or '.join(TYPES)}.")


def _rows(found: dict[str, Any], dim: int) -> int:
    """Embeddings in the core of novelty: as many as there are, if there may be so many."""
    shape = found.get("novelty.core", {}).get("shape")
    rows = shape[0] if isinstance(shape, list) and shape else None
    return rows if type(rows) is int and 0 < rows <= CORE else CORE


# Seeds have at most 20 digits; a float never needs more than 17 of them.
DIGITS = 25
WORDS = 80


def strict_json(raw: bytes, what: str) -> Any:
    """JSON with one meaning: UTF-8, no name twice, no NaN, no infinity, no number that is longer than any of ours.

    Raises
    ------
    ValueError
        If it is anything else; `what` names the file.
    """
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite, parse_int=_whole
        )
    except RecursionError as error:
        raise ValueError(f"{what} is nested deeper than any file of deepspot. Get a new copy of the bundle.") from error
    except ValueError as error:  # what is no JSON, no UTF-8, or refused below
        raise ValueError(f"{what} is no readable JSON ({error}). Get a new copy of the bundle.") from error


def short(value: object) -> str:
    """What somebody else wrote, for a message: in quotes, on one line, and no longer than one."""
    text = repr(value)
    return text if len(text) <= WORDS else f"{text[:WORDS]}…"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it says {short(name)} twice")
        found[name] = value
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:DIGITS]} is no finite number")
    return value


def _whole(number: str) -> int:
    if len(number) > DIGITS:
        raise ValueError(f"a number has {len(number)} digits")
    return int(number)
