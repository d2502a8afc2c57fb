"""Parse and check the card of a bundle, which may come from anywhere."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from deepspot.errors import InputError

from .card import CellModelCard, ModelCard, StoredCard

FORMAT = 1
# Bytes and values of a card with 60,000 genes. The number of values bounds the time and memory of validation.
LARGEST_CARD, MOST_VALUES = 16_000_000, 500_000
# A seed has at most 20 digits, a float needs at most 17.
MOST_DIGITS = 25
LONGEST_QUOTE, LONGEST_MESSAGE = 120, 400


def parse_content(raw: bytes, file: str) -> dict[str, Any]:
    """Parse the JSON of a card and check its format, but no other field; errors name the `file`."""
    if raw.count(b",") > MOST_VALUES:
        raise InputError(f"{file} lists more than {MOST_VALUES:,} values, more than a card can have. Get a new copy.")
    content = strict_json(raw, file)
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is int and version > FORMAT:
        raise InputError(
            f"{file} has format {version}, of a later version: this one reads format {FORMAT}. Update deepspot."
        )
    if type(version) is not int or version != FORMAT:  # True equals 1
        raise InputError(
            f"{file} has format {short(version)}, and only format {FORMAT} is known. Get a new copy of the bundle."
        )
    return content


def parse_card(content: dict[str, Any], file: str) -> ModelCard | CellModelCard:
    """Check all fields of a card, and the size of the model it describes."""
    from pydantic import ValidationError

    network = content.get("network")
    kind: type[ModelCard | CellModelCard] = (
        CellModelCard if isinstance(network, dict) and "system" in network else ModelCard
    )
    unknown = sorted(set(content) - set(kind.model_fields) - {"licence"})
    if unknown:
        raise InputError(
            f"{file} does not describe a model: unknown fields {short(unknown)}. They may be from a "
            "later version: update deepspot."
        )
    try:
        card = kind.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors(include_input=False)]
        raise InputError(
            f"{file} does not describe a model ({'; '.join(wrong[:3])[:LONGEST_MESSAGE]}). Get a new copy."
        ) from error
    expected_shapes(card, file)
    if card.reliability is not None and card.reliability.r_n is None:  # intervals of the mean, by an earlier version
        none: list[float | None] = [None] * len(card.genes)
        reliability = card.reliability.model_copy(update={"r_low": none, "r_high": none})
        card = card.model_copy(update={"reliability": reliability})
    return card


def expected_shapes(card: StoredCard, file: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors of a model, without the optional ones: OOD detector and bounds of ridge.

    Raises an error that names the card's `file` if the model is larger than the limits.
    """
    try:
        return card.shapes()
    except InputError as error:
        raise InputError(f"{file} {error}. Get a new copy.") from error


def card_hash(content: dict[str, Any]) -> str:
    """Return the hash of a card without `sha256`; the weights file contains it, so it cannot depend on their hash."""
    # The JSON as written is hashed, not the parsed card: later versions may add fields with defaults.
    kept = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode() + b"\0").hexdigest()


def strict_json(raw: bytes, file: str) -> Any:
    """Parse JSON in UTF-8, refusing repeated keys, NaN, infinity and very long integers; errors name the `file`.

    Pydantic's parser takes the last of two equal keys, and infinity for 1e999.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content:
                raise InputError(f"it has {short(key)} twice")
            content[key] = value
        return content

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise InputError(f"{number[:MOST_DIGITS]} is not a finite number")
        return value

    def integer(number: str) -> int:
        if len(number) > MOST_DIGITS:
            raise InputError(f"a number has {len(number)} digits")
        return int(number)

    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=finite, parse_float=finite, parse_int=integer
        )
    except RecursionError as error:
        raise InputError(f"{file} is nested too deeply. Get a new copy of the bundle.") from error
    except ValueError as error:  # no JSON, no UTF-8, or refused above
        raise InputError(f"{file} is not valid JSON ({error}). Get a new copy of the bundle.") from error


def short(value: object) -> str:
    """Return a value from a file as one short line for an error message."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"
