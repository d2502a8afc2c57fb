"""OpenSlide's reader of wsidata, for headers whose numbers have a decimal comma."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from wsidata.reader import OpenSlideReader

# Entries that wsidata converts to numbers: it does not open a file in which one of them is something else.
NUMBERS = ("mpp", "appmag", "objective-power")


class TolerantOpenSlideReader(OpenSlideReader):
    """Reader that accepts "0,25" as a number, and ignores what is none."""

    def set_properties(self, properties: Any) -> None:
        """Set the properties of the slide."""
        tolerated: dict[str, Any] = {}
        for key, value in properties.items():
            if not key.lower().endswith(NUMBERS):
                tolerated[key] = value
                continue
            with suppress(ValueError):
                tolerated[key] = float(value.replace(",", "."))
        super().set_properties(tolerated)
