from __future__ import annotations

import json
import math
from typing import Any

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
