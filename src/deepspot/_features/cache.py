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

from deepspot._core.logging import logger
from deepspot._core.settings import settings

FOLDER = "embeddings"
RESERVED = "bytes"
"""File in the folder of a slide: the bytes it is going to take, which other processes count when they make room."""


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder with the embeddings of one slide, a file for each block. A file that has its name is whole.

    Attributes
    ----------
    folder
        Where the files are.
    spill
        Where they go if that disk is full.
    """

    folder: Path
    spill: Path | None = None

    def put(self, block: int, spot: np.ndarray, subspots: np.ndarray | None) -> None:
        """Keep embeddings (b, d) and (b, s, d), both in float16."""
        from safetensors import SafetensorError

        arrays = {"spot": spot.astype(np.float16)}
        if subspots is not None:
            arrays["subspots"] = subspots.astype(np.float16)
        try:
            _save(arrays, _file(self.folder, block))
        except (OSError, SafetensorError) as error:
            if self.spill is None:
                raise
            logger.warning(
                "Embeddings cannot be kept in %s (%s). They go beside the result, and are deleted afterwards; "
                "`ds.settings.embeddings_gb` and `cache_dir` say where and how much.",
                self.folder,
                error,
            )
            _save(arrays, _file(self.spill, block))

    def holds(self, block: int) -> bool:
        """Whether there is a file of a block; it may still turn out to be damaged."""
        return any(_file(folder, block).is_file() for folder in filter(None, (self.folder, self.spill)))

    def get(self, block: int, part: str) -> np.ndarray | None:
        """`spot` or `subspots` of a block, or None where they are not kept."""
        from safetensors import SafetensorError, safe_open

        for folder in filter(None, (self.folder, self.spill)):
            # Another process made room, or the file was damaged.
            with suppress(FileNotFoundError, SafetensorError):
                with safe_open(_file(folder, block), framework="numpy") as file:
                    found = file.get_tensor(part)
                os.utime(folder)  # in use, so that it is the last to make room
                return found
        return None


def _file(folder: Path, block: int) -> Path:
    return folder / f"block_{block:06d}.safetensors"


def _save(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write a file that gets its name when it is whole; its folder may vanish to make room for others."""
    from safetensors.numpy import save_file

    for last in (False, True):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            os.close(handle)
            try:
                save_file(arrays, name)
                Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)
        except FileNotFoundError:
            if last:
                raise
        else:
            return


@contextmanager
def embedding_cache(fingerprint: str, expected: int, parent: Path) -> Iterator[EmbeddingCache]:
    """Open the embedding cache of a slide.

    It is in the cache if its `expected` bytes fit under `settings.embeddings_gb`; slides that were not used for
    longest make room. Else it is in a temporary folder in `parent`, which is that of the result.
    """
    limit = settings.embeddings_gb * 1e9
    if expected <= limit:
        folder = settings.cache(FOLDER, fingerprint)
        with _locked():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / RESERVED).write_text(str(expected))
            os.utime(folder)  # used now, so that it is the last to make room
            _make_room(folder, limit - expected)
        logger.info(
            "Keeping embeddings in %s, with others at most %g GB (`ds.settings.embeddings_gb`; 0 keeps none). "
            "`ds.clear_cache()` deletes them.",
            folder,
            settings.embeddings_gb,
        )
        with tempfile.TemporaryDirectory(dir=parent, prefix=".embeddings_") as spill:
            yield EmbeddingCache(folder, Path(spill))
        return
    if limit > 0:
        logger.warning(
            "The embeddings take %.1f GB, above `ds.settings.embeddings_gb` = %g, and are not kept.",
            expected / 1e9,
            settings.embeddings_gb,
        )
    with tempfile.TemporaryDirectory(dir=parent, prefix=".embeddings_") as temporary:
        yield EmbeddingCache(Path(temporary))


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
    freed = 0
    if folder.is_dir():
        with _locked():
            freed = sum(map(_size, _cached_slides()))
            shutil.rmtree(folder, ignore_errors=True)  # a run that goes on may be writing
    logger.info("Deleted %.3g GB of embeddings in %s.", freed / 1e9, folder)


@contextmanager
def _locked() -> Iterator[None]:
    """Keep other processes from making room at the same time."""
    from filelock import FileLock

    lock = settings.cache(f"{FOLDER}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def _make_room(keep: Path, limit: float) -> None:
    """Delete the embeddings of slides until the others take no more than `limit` bytes."""
    others = sorted((path for path in _cached_slides() if path != keep), key=lambda path: path.stat().st_mtime)
    sizes = {path: _size(path) for path in others}
    total = sum(sizes.values())
    for path in others:
        if total <= limit:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]
        logger.info("Deleted %.3g GB of embeddings, which were not used for longest.", sizes[path] / 1e9)


def _cached_slides() -> list[Path]:
    folder = settings.cache(FOLDER)
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _size(folder: Path) -> int:
    """Bytes in the folder of a slide, or those that it is going to take."""
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a file that was being written has got its name
            size += path.stat().st_size
    reserved = folder / RESERVED
    return max(size, int(reserved.read_text()) if reserved.is_file() else 0)
