"""Text on the console: errors and logs with the options of a command, wrapped to the width of a terminal."""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from deepspot._core.logging import logger

COLUMNS = 80
RENAMED = {"fullres_image_file": "image"}
"""Arguments of readers whose option has another name."""


def name_options(text: str, options: set[str]) -> str:
    """Replace Python arguments in backticks (`name`, `name=`, `name=value`) by the options of a command."""

    def option(match: re.Match[str]) -> str:
        name, value = RENAMED.get(match[1], match[1]), (match[2] or "").strip("='\"")
        if name not in options:
            return match[0]
        flag = "--" + name.replace("_", "-")
        return f"`{flag}`" if value in ("", "True") else f"`{flag} {value}`"

    if "mpp" in options:
        text = re.sub(r"`ds\.pp\.set_scale\b[^`]*`", "`--mpp <µm per pixel>`", text)
        spots = r"\1 in Python, or predict the file of the slide with `deepspot cohort`, which places spots"
        text = re.sub(r"(`ds\.pp\.spots\b[^`]*`)", spots, text)
    if "overwrite" not in options:
        text = text.replace("`overwrite=True`, or ", "")
    return re.sub(r"`(\w+)(=[^`]*)?`", option, text)


def wrap(text: str) -> str:
    """Wrap text to the width of a terminal; words, such as paths, are kept whole."""
    return "\n".join(
        textwrap.fill(line, COLUMNS, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
    )


@contextmanager
def console_log(options: set[str]) -> Iterator[None]:
    """Wrap the log lines and name options in them, as in errors."""

    class Console(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return wrap(name_options(super().format(record), options))

    handler = logger.handlers[0]
    before = handler.formatter
    handler.setFormatter(Console("%(message)s"))
    try:
        yield
    finally:
        handler.setFormatter(before)


def one_line(error: BaseException) -> str:
    """Return the text of an error in one line, without control characters."""
    # The first argument of an OSError may be a number.
    text = error.args[0] if len(error.args) == 1 else error
    line = " ".join([str(text) or type(error).__name__, *getattr(error, "__notes__", [])]).replace("\n", " ")
    return "".join(
        char if char.isprintable() else repr(char)[1:-1] for char in line
    )  # file names may hold control codes
