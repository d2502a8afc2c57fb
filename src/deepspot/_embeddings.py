"""Embeddings on disk, in blocks, found by their content: what was embedded once need not be embedded again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._logging import logger
from ._settings import settings

FOLDER = "embeddings"


@dataclass(frozen=True)
class Shelf:
    """A folder with the embeddings of one slide, a file for each block. A file that has its name is whole.

    Attributes
    ----------
    folder
        Where the files are.
    """

    folder: Path

    def put(self, block: int, spot: np.ndarray, subspots: np.ndarray | None) -> None:
        """Keep embeddings (b, d) and (b, s, d), both in float16."""
        from safetensors.numpy import save_file

        arrays = {"spot": spot.astype(np.float16)}
        if subspots is not None:
            arrays["subspots"] = subspots.astype(np.float16)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        os.close(handle)
        try:
            save_file(arrays, name)
            Path(name).replace(self._file(block))
        finally:
            Path(name).unlink(missing_ok=True)

    def get(self, block: int, part: str) -> np.ndarray | None:
        """`spot` or `subspots` of a block, or None where they are not kept."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file(block), framework="numpy") as file:
                return file.get_tensor(part)
        except (FileNotFoundError, SafetensorError):  # another process made room, or the file was damaged
            return None

    def _file(self, block: int) -> Path:
        return self.folder / f"block_{block:06d}.safetensors"


@contextmanager
def shelf(fingerprint: str, expected: int, beside: Path) -> Iterator[Shelf]:
    """Open the shelf of a slide.

    It is in the cache if its `expected` bytes fit under `settings.embeddings_gb`; shelves that were not used for
    longest make room. Else it is in a temporary folder `beside` the result.
    """
    limit = settings.embeddings_gb * 1e9
    if expected <= limit:
        folder = settings.cache(FOLDER, fingerprint)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(folder)  # used now, so that it is the last to make room
        _make_room(folder, limit - expected)
        logger.info(
            "Keeping embeddings in %s, with others at most %g GB (`ds.settings.embeddings_gb`; 0 keeps none). "
            "`ds.clear_cache()` deletes them.", folder, settings.embeddings_gb,
        )  # fmt: skip
        yield Shelf(folder)
        return
    if limit > 0:
        logger.warning(
            "The embeddings take %.1f GB, above `ds.settings.embeddings_gb` = %g, and are not kept.",
            expected / 1e9, settings.embeddings_gb,
        )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=beside, prefix=".embeddings_") as temporary:
        yield Shelf(Path(temporary))


def clear_cache() -> None:
    """Delete all embeddings that predictions streamed to disk have kept; downloads stay.

    They are in the folder `embeddings` of `settings.cache_dir`, else of ``$DEEPSPOT_CACHE``, else of the cache folder
    of the operating system. How much they may take is set by `settings.embeddings_gb`.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.clear_cache()
    """
    folder = settings.cache(FOLDER)
    freed = sum(map(_size, _shelves()))
    if folder.is_dir():
        shutil.rmtree(folder)
    logger.info("Deleted %.3g GB of embeddings in %s.", freed / 1e9, folder)


def _make_room(keep: Path, limit: float) -> None:
    """Delete shelves until the others take no more than `limit` bytes."""
    others = sorted((path for path in _shelves() if path != keep), key=lambda path: path.stat().st_mtime)
    sizes = {path: _size(path) for path in others}
    total = sum(sizes.values())
    for path in others:
        if total <= limit:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]
        logger.info("Deleted %.3g GB of embeddings, which were not used for longest.", sizes[path] / 1e9)


def _shelves() -> list[Path]:
    folder = settings.cache(FOLDER)
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _size(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process made room
            size += path.stat().st_size
    return size
