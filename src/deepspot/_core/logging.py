from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .settings import settings

if TYPE_CHECKING:
    from tqdm.auto import tqdm

T = TypeVar("T")

logger = logging.getLogger("deepspot")
if not logger.handlers:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def count_of(n: int, noun: str) -> str:
    """Return a number with a noun, which gets an "s" unless there is one."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


@contextmanager
def without_noise() -> Iterator[None]:
    """Suppress warnings of zarr that are repeated for every array and that users cannot act on."""
    with warnings.catch_warnings():
        for message in ("zarr v3 autosharding", "The data type .* does not have a Zarr V3 specification"):
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def only_warnings(prefix: str) -> Iterator[None]:
    """Log only warnings, with a prefix such as the name of a slide."""

    def named(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return False
        record.msg, record.args = f"{prefix}: {record.getMessage()}", ()
        return True

    logger.addFilter(named)
    try:
        yield
    finally:
        logger.removeFilter(named)


def bar(description: str, *, total: int | None = None, unit: str = "it") -> tqdm:
    """Open a progress bar."""
    from tqdm.auto import tqdm

    # tqdm shows nothing with `disable=None` if the output is not a terminal.
    return tqdm(desc=description, total=total, unit=unit, disable=None if settings.progress else True, leave=False)


def track(iterable: Iterable[T], description: str, *, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a progress bar."""
    with bar(description, total=total, unit=unit) as progress:
        for item in iterable:
            yield item
            progress.update()
