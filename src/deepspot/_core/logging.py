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


@contextmanager
def without_noise() -> Iterator[None]:
    """Leave out what libraries below us say once for every array written, and nobody can do anything about."""
    with warnings.catch_warnings():
        for noise in ("zarr v3 autosharding", "The data type .* does not have a Zarr V3 specification"):
            warnings.filterwarnings("ignore", message=noise)
        yield


def bar(description: str, *, total: int | None = None, unit: str = "it") -> tqdm:
    """Open the package's one kind of progress bar."""
    from tqdm.auto import tqdm

    # `disable=None` is tqdm's way to stay silent where the output is a log file.
    return tqdm(desc=description, total=total, unit=unit, disable=None if settings.progress else True, leave=False)


def track(iterable: Iterable[T], description: str, *, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Run through an iterable with a progress bar."""
    with bar(description, total=total, unit=unit) as progress:
        for item in iterable:
            yield item
            progress.update()
