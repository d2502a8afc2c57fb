"""The card of a bundle, out of a file that nobody vouches for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .card import ModelCard
from .files import CARD, Files, opened
from .header import most_bytes, shapes_of, short, strict_json

FORMAT = 1
# 60,000 genes and all that is known of them. Every wrong value is an error of its own, which takes time and memory.
LARGEST_CARD, MOST_VALUES = 16_000_000, 500_000
LONGEST = 400


def read_content(files: Files) -> dict[str, Any]:
    """Read what a card says, whatever it means."""
    name = files.named(CARD)
    raw = files.read(CARD, LARGEST_CARD)
    if raw.count(b",") > MOST_VALUES:
        raise ValueError(f"{name} lists more than {MOST_VALUES:,} values, which no card does. Get a new copy.")
    content = strict_json(raw, name)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if type(found) is int and found > FORMAT:
        raise ValueError(
            f"{name} has format {found}, of a later version: this one reads format {FORMAT}. Update deepspot."
        )
    if type(found) is not int or found != FORMAT or not isinstance(content, dict):  # True is 1, but no format
        raise ValueError(
            f"{name} has format {short(found)}, and only format {FORMAT} is known. Get a new copy of the bundle."
        )
    return content


def understood(content: dict[str, Any], name: str) -> ModelCard:
    """Check what a card says; `name` is the file, for messages."""
    from pydantic import ValidationError

    unknown = sorted(set(content) - set(ModelCard.model_fields))
    if unknown:
        raise ValueError(
            f"{name} does not describe a model: unknown fields {short(unknown)}. A newer deepspot may know them."
        )
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors(include_input=False)]
        raise ValueError(
            f"{name} does not describe a model ({'; '.join(wrong[:3])[:LONGEST]}). Get a new copy."
        ) from error


def hash_of(content: dict[str, Any]) -> str:
    """Hash of a card without that of its weights, which are not there yet when it is written into their file."""
    # Of what is written, not of what is read: a later version may add fields with defaults.
    kept = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode() + b"\0").hexdigest()


def same_card(told: object, content: dict[str, Any]) -> bool:
    """Whether the hash in a weights file is that of a card; the first bundles have 16 of its 64 digits."""
    return isinstance(told, str) and len(told) in (16, 64) and hash_of(content).startswith(told)


def read_card(path: Path) -> ModelCard:
    """Read and check the card of a bundle."""
    with opened(path) as files:
        card = understood(read_content(files), files.named(CARD))
        shapes_of(card, files.named(CARD))
    return card


def largest(card: ModelCard) -> int:
    """Most bytes that the weights of a model may have."""
    return most_bytes(shapes_of(card, CARD), card.dim)
