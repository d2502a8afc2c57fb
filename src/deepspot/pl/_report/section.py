"""A section of the report, and what becomes of a part that cannot be made."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from .survey import Slide


@dataclass(frozen=True)
class Section:
    """Heading (text) and what stands below it (HTML)."""

    heading: str
    html: str


def attempt(slide: Slide, part: str, make: Callable[[], str]) -> str:
    """Make a part; if that fails for a reason that a user can mend, the report goes on without it and says so."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        return make()
    except (KeyError, ValueError) as error:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        slide.missing[part] = str(error.args[0] if error.args else error)
        return ""


def words(text: str) -> str:
    """Escape text; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(str(text)))


def paragraph(text: str) -> str:
    """Paragraph of text."""
    return f"<p>{words(text)}</p>"


def subheading(text: str) -> str:
    """Heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def plural(n: int, thing: str) -> str:
    """Number and noun."""
    return f"{n:,} {thing}{'s' * (n != 1)}"


def number(value: float) -> str:
    """A correlation, which may be unknown."""
    return "unknown" if value != value else f"{value:.2f}".replace("-", "−")


def percent(share: float) -> str:
    """A share."""
    return f"{100 * share:.0f} %"
