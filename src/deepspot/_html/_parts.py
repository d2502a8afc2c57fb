"""Pieces of a report. All text is escaped here, unless it says that it is HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path


def embed(image: bytes | Path) -> str:
    """Turn a PNG, or the file that holds it, into the address of an image that is inside the page."""
    content = image if isinstance(image, bytes) else image.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def figure(image: bytes | Path, caption: str) -> str:
    """Figure with a caption, which readers who cannot see it get too."""
    text = escape(caption)
    return f'<figure><img alt="{text}" src="{embed(image)}"><figcaption>{text}</figcaption></figure>'


def facts(rows: Mapping[str, str]) -> str:
    """Two columns: name and text; the text is HTML."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{text}</td></tr>" for name, text in rows.items())
    return f'<div class="scroll"><table class="facts">{cells}</table></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """Table with a head; of numbers, which are flush right, or of text."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    opening = '<table class="text">' if text else "<table>"
    return f'<div class="scroll">{opening}{"".join(lines)}</table></div>'


def _row(cell: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in texts) + "</tr>"
