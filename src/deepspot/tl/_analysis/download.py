"""Downloads of tables of genes: made once, kept in the cache, and with a way out for those who are offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deepspot._core.logging import logger
from deepspot._core.settings import settings


def fetch(name: str, download: Callable[[], str], what: str, instead: str) -> Path:
    """Path of a file in the cache, which is downloaded if it is not there yet.

    Parameters
    ----------
    name
        Name of the file.
    download
        Gives its text.
    what
        What it is, for messages.
    instead
        What to do offline.

    Raises
    ------
    ConnectionError
        If it is not in the cache and cannot be downloaded.
    ValueError
        As `download` raises it.
    """
    path = settings.cache("genesets", name)
    if path.is_file():
        return path
    try:
        text = download()
    except ValueError:
        raise
    except Exception as error:  # the libraries raise anything, also bare exceptions
        raise ConnectionError(
            f"{what} is not in the cache and could not be downloaded ({type(error).__name__}). {instead} Or put it at "
            f"{str(path)!r} on a machine that is online."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")  # a download that was cut short must not look like a whole one
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    logger.info("Downloaded %s to %s.", what, path)
    return path
