"""Reports as single HTML files without scripts or external resources.

Templates (``.html.j2``) are stored with the code that uses them and are named by their path in the package. They escape
all values that are passed to them.
"""

from __future__ import annotations

import base64
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import check_outside_stores, replace_file
from .logging import count_of

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).parents[1]


def render(template: str, **values: Any) -> str:
    """Render a template, such as ``"_demo/demo.html.j2"``. A missing value is an error."""
    return _templates().get_template(template).render(values)


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
        "csv_url": csv_url,
        "decimal": decimal,
        "percent": lambda share: f"{100 * share:.0f} %",
        "plural": count_of,
        "image_url": image_url,
        "split_code": split_code,
        "thousands": "{:,}".format,
    }
    return templates


def decimal(value: float, unknown: str = "unknown") -> str:
    """Format a number with two decimals; NaN becomes `unknown`."""
    return unknown if value != value else f"{value:.2f}".replace("-", "−")


def image_url(image: bytes | Path) -> str:
    """Return a PNG or JPEG image, or the file that contains it, as a data URL."""
    content = image if isinstance(image, bytes) else image.read_bytes()
    return _data_url("image/png" if content.startswith(b"\x89PNG") else "image/jpeg", content)


def csv_url(text: str) -> str:
    """Return text in CSV as a data URL, which a link can save as a file."""
    return _data_url("text/csv", text.encode("utf-8"))


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def split_code(text: str) -> list[str]:
    """Split text at paired backticks: every second part is code."""
    return re.split(r"`([^`]+)`", str(text))


def library_versions() -> dict[str, str]:
    """Return the versions of the main libraries."""
    return {name: version(name) for name in ("anndata", "deepspot", "numpy", "scanpy", "spatialdata", "torch")}


def check_file(path: str | Path, *, overwrite: bool = False) -> Path:
    """Raise unless a file can be written to `path`."""
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r} to write {path.name!r} into. Create it, or choose another."
        )
    check_outside_stores(path)
    if path.is_dir():
        raise FileExistsError(f"{str(path)!r} is a folder. Pass the name of a file.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Choose another name, or pass `overwrite=True`.")
    return path


def write_file(path: Path, text: str) -> Path:
    """Write a page to a temporary file and rename it, so that an interrupted run leaves no partial file."""
    with replace_file(path) as new:
        new.write_text(text, encoding="utf-8")
    return path
