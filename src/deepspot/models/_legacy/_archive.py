"""The file that `torch.save` writes: a zip with a pickle, and the bytes of the tensors beside it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PICKLE = "data.pkl"
# The description of a network of any size takes some 100 KB, a scaler of 20,000 genes another 1 MB.
LARGEST_PICKLE = 8_000_000
# What `zipfile` raises on damaged files.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError,
)  # fmt: skip


class Archive:
    """Bytes in a checkpoint. All of them together are never more than the file itself."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self._left = path.stat().st_size
        entries = file.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        pickles = [name for name in self._entries if name.count("/") == 1 and name.endswith(f"/{PICKLE}")]
        if len(self._entries) < len(entries) or len(pickles) != 1:
            raise ValueError(
                f"{path} is no checkpoint of PyTorch: it must hold one folder with one {PICKLE}. A download of several "
                "models has to be unzipped first; pass the folder of one of them."
            )
        self._root = pickles[0].removesuffix(PICKLE)
        if self._has("byteorder") and self._read("byteorder", 16) != b"little":
            raise ValueError(f"{path} was written on a machine of another byte order, which is not supported.")
        self.pickle = self._read(PICKLE, LARGEST_PICKLE)

    def storage(self, key: str, size: int) -> bytes:
        """Bytes of a tensor's storage, which must be exactly `size`."""
        data = self._read(f"data/{key}", size)
        if len(data) != size:
            raise ValueError(f"{self.path} holds {len(data)} bytes for a tensor of {size}. Get a new copy.")
        return data

    def _has(self, name: str) -> bool:
        return self._root + name in self._entries

    def _read(self, name: str, limit: int) -> bytes:
        if not self._has(name):
            raise ValueError(f"{self.path} is incomplete: it lacks {self._root + name!r}. Get a new copy.")
        entry = self._entries[self._root + name]
        # PyTorch does not compress, so that whoever does may be up to something: a bomb is small on disk.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > min(limit, self._left):
            raise ValueError(
                f"{self.path} holds {name!r} in a way or size that PyTorch does not write. Get a new copy."
            )
        self._left -= entry.file_size
        try:
            with self._file.open(entry) as file:
                return file.read(limit)
        except _UNREADABLE as error:
            raise ValueError(f"{self.path} cannot be read at {name!r} ({error}). Get a new copy.") from error


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a checkpoint."""
    try:
        file = zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is no readable checkpoint ({error}): truncated, or written by PyTorch before 1.6. Get a new copy."
        ) from error
    with file:
        yield Archive(path, file)
