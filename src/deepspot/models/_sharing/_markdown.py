"""Text of others in Markdown, where it must stay text."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence


def plain(text: str) -> str:
    """Text that no reader of Markdown takes for markup, a link or HTML."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    line = re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^[#+>-])", r"\\\1", html.escape(line, quote=False))
    return re.sub(r"(?i)(www|https?)(\.|:)", r"\1&#8203;\2", line)  # what looks like an address stays text too


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """A block of Python."""
    return f"```python\n{text}\n```"
