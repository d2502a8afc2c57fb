"""Reports as one HTML file: templates in, a file without scripts out, nothing from the network.

Templates (``.html.j2``) lie beside the code that gathers their facts and are named by their path in the package. They
escape whatever they are given; only what a template made itself is HTML.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("anndata", "deepspot", "numpy", "scanpy", "spatialdata", "torch")


def render(template: str, **facts: Any) -> str:
    """Fill in a template, such as ``"_demo/demo.html.j2"``; a fact that it lacks is an error."""
    return _templates().get_template(template).render(facts)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "decimal": decimal,
        "percent": percent,
        "plural": plural,
        "png": png,
        "split_code": split_code,
        "thousands": "{:,}".format,
    }
    return templates


def decimal(value: float, unknown: str = "unknown") -> str:
    """Two decimals of a number that may be NaN."""
    return unknown if value != value else f"{value:.2f}".replace("-", "−")


def percent(share: float) -> str:
    """A share."""
    return f"{100 * share:.0f} %"


def plural(n: int, noun: str) -> str:
    """Number and noun."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def png(image: bytes | Path) -> str:
    """Address of an image that is part of the page, from a PNG or the file that holds it."""
    content = image if isinstance(image, bytes) else image.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def split_code(text: str) -> list[str]:
    """Split text at backticks: every second part is code. A single backtick is text."""
    return re.split(r"`([^`]+)`", str(text))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that make a report."""
    return {name: version(name) for name in LIBRARIES}


def check_file(path: str | Path, *, overwrite: bool = False, option: str = "overwrite=True") -> Path:
    """Raise unless a page may be written here; `option` is how the user allows to replace a file, for the message."""
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r} to write {path.name!r} into. Make it first, or choose another."
        )
    if path.is_dir():
        raise FileExistsError(f"{str(path)!r} is a folder. Pass the name of a file, such as 'report.html'.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Choose another name, or pass `{option}`.")
    return path


def write_file(path: Path, text: str) -> Path:
    """Write a page under another name first, so that a run that is stopped leaves no half of it."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(scratch).chmod(0o666 & ~umask)  # temporary files can be read by nobody else
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return path
