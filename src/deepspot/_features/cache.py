"""Cache on disk of the embeddings of slides, in blocks of spots, identified by a content hash."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepspot._core.logging import logger
from deepspot._core.settings import settings

FOLDER = "embeddings"
RESERVED = "bytes"
"""File in the folder of a slide: the bytes that it will use, for other processes."""


@dataclass(frozen=True)
class EmbeddingCache:
    """Embeddings of one slide: a folder with a complete file for each block."""

    folder: Path
    spill: Path | None = None  # used if the disk of `folder` is full

    def put(self, block: int, spot: np.ndarray, subspots: np.ndarray | None) -> None:
        """Store embeddings (b, d) and (b, s, d) of a block in float16, or in float32 where rounding is too coarse."""
        arrays = {"spot": _rounded(spot)}
        if subspots is not None:
            arrays["subspots"] = _rounded(subspots)
        try:
            _save(arrays, _file(self.folder, block))
        except OSError as error:
            if self.spill is None:
                raise
            logger.warning(
                "Embeddings cannot be stored in %s (%s). They are stored next to the result and deleted afterwards. "
                "See `ds.settings.embeddings_gb` and `ds.settings.cache_dir`.",
                self.folder,
                error,
            )
            _save(arrays, _file(self.spill, block))

    def holds(self, block: int) -> bool:
        """Check whether there is a file of a block, which may be damaged."""
        return any(_file(folder, block).is_file() for folder in filter(None, (self.folder, self.spill)))

    def get(self, block: int, part: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return `spot` or `subspots` of a block, or None if they are not stored with this shape and their checksum."""
        from safetensors import SafetensorError, safe_open

        for folder in filter(None, (self.folder, self.spill)):
            path = _file(folder, block)
            # Another process deleted the file, or it is damaged or cannot be read.
            with suppress(OSError, SafetensorError):
                with safe_open(path, framework="numpy") as file:
                    found, checksums = file.get_tensor(part), file.metadata() or {}
                if found.shape == shape and checksums.get(part) == _checksum(found):
                    with suppress(OSError):  # the cache of another user
                        os.utime(folder)  # mark as recently used
                    return found
                logger.warning("%s is damaged or of another version. Its spots are embedded again.", path)
        return None


# Largest rounding error of float16 (root mean square over dimensions), absolute and in standard deviations.
MAX_ROUNDING = 1e-3


def _rounded(embeddings: np.ndarray) -> np.ndarray:
    """Round embeddings (…, d) to float16, unless they have too large an offset or range for it."""
    with np.errstate(over="ignore"):
        half = embeddings.astype(np.float16)
    rows = embeddings.reshape(-1, embeddings.shape[-1])
    spread = rows.std(axis=0, dtype=np.float64)
    error = np.abs(half.reshape(rows.shape).astype(np.float32) - rows).mean(axis=0, dtype=np.float64)
    share = np.divide(error, spread, out=np.zeros_like(error), where=spread > 0)
    fine = max(np.sqrt(np.mean(error**2)), np.sqrt(np.mean(share**2))) <= MAX_ROUNDING
    return half if fine else embeddings.astype(np.float32)


def _checksum(array: np.ndarray) -> str:
    return f"{array.dtype} {zlib.crc32(array.tobytes())}"


def _file(folder: Path, block: int) -> Path:
    return folder / f"block_{block:06d}.safetensors"


def _save(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write a file under a temporary name and rename it; another process may delete the folder meanwhile."""
    from safetensors.numpy import save

    content = save(arrays, metadata={part: _checksum(array) for part, array in arrays.items()})
    for last in (False, True):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
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
    """Open the embedding cache of a slide, which will use `expected` bytes.

    If these fit under `settings.embeddings_gb`, the least recently used slides are deleted to make room. Otherwise, the
    embeddings are in a temporary folder in `parent`.
    """
    limit, folder = settings.embeddings_gb * 1e9, None
    if expected <= limit:
        folder = _reserve(settings.cache(FOLDER, fingerprint), expected, limit)
    elif limit > 0:
        logger.warning(
            "The embeddings need %.1f GB, above `ds.settings.embeddings_gb` = %g, and are not kept.",
            expected / 1e9,
            settings.embeddings_gb,
        )
    with tempfile.TemporaryDirectory(dir=parent, prefix=".embeddings_") as temporary:
        yield EmbeddingCache(Path(temporary)) if folder is None else EmbeddingCache(folder, Path(temporary))


def _reserve(folder: Path, expected: int, limit: float) -> Path | None:
    """Make the folder of a slide, and room for `expected` bytes; return None if the disk refuses it."""
    try:
        with _locked():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = folder / f"{RESERVED}.part"
            part.write_text(str(expected))
            part.replace(folder / RESERVED)
            os.utime(folder)  # mark as recently used
            _make_room(folder, limit - expected)
    except OSError as error:
        logger.warning("Embeddings cannot be stored in %s (%s), and are not kept.", folder, error)
        return None
    logger.info(
        "Storing embeddings in %s, a cache of up to %g GB (`ds.settings.embeddings_gb`; 0 disables it). "
        "`ds.clear_cache()` deletes it.",
        folder,
        settings.embeddings_gb,
    )
    return folder


def clear_cache() -> None:
    """Delete the embeddings that were cached by predictions streamed to disk. Downloads are kept.

    The embeddings are in the folder `embeddings` of the cache (`settings.cache_dir`, else ``$DEEPSPOT_CACHE``, else the
    cache folder of the operating system). `settings.embeddings_gb` limits their size.

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
            shutil.rmtree(folder, ignore_errors=True)  # another run may be writing
    logger.info("Deleted %.3g GB of embeddings in %s.", freed / 1e9, folder)


@contextmanager
def _locked() -> Iterator[None]:
    """Prevent other processes from making room at the same time."""
    from filelock import FileLock

    lock = settings.cache(f"{FOLDER}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def _make_room(keep: Path, limit: float) -> None:
    """Delete the least recently used slides until all but `keep` use at most `limit` bytes."""
    others = sorted((path for path in _cached_slides() if path != keep), key=lambda path: path.stat().st_mtime)
    sizes = {path: _size(path) for path in others}
    total = sum(sizes.values())
    for path in others:
        if total <= limit:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]
        logger.info("Deleted %.3g GB of least recently used embeddings.", sizes[path] / 1e9)


def _cached_slides() -> list[Path]:
    folder = settings.cache(FOLDER)
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _size(folder: Path) -> int:
    """Return the bytes that the folder of a slide uses, or will use."""
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a temporary file was renamed
            size += path.stat().st_size
    with suppress(OSError, ValueError):  # no reservation, or an unreadable one after a full disk
        size = max(size, int((folder / RESERVED).read_text()))
    return size
