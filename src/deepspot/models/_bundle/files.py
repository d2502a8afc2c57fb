"""The two files of a bundle as bytes, from a folder or a zip, and never more bytes than there may be."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISLNK
from typing import IO, Protocol

CARD, WEIGHTS, PAGE = "card.json", "model.safetensors", "README.md"
PIECE = 2**20


class TooLarge(ValueError):
    """A file has more bytes than it may have."""


class Files(Protocol):
    """Where the files of a bundle are."""

    def named(self, name: str) -> str:
        """One of the files, for messages."""

    def read(self, name: str, limit: int) -> bytes:
        """Read one of them, or raise FileNotFoundError, or ValueError if it has more than `limit` bytes."""


class Folder:
    """The files of a bundle that is a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def named(self, name: str) -> str:
        """One of the files, for messages."""
        return str(self.path / name)

    def read(self, name: str, limit: int) -> bytes:
        """Read one of them."""
        if not (self.path / name).is_file():
            raise FileNotFoundError(missing(self.path, name))
        with (self.path / name).open("rb") as file:
            return up_to(limit, file, self.named(name))


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """Open a bundle; a file is taken for a zip, whatever its name."""
    if path.is_file():
        with opened_zip(path) as files:
            yield files
    else:
        yield Folder(path)


def missing(path: Path, name: str) -> str:
    """What to say if a file is not there."""
    if name == CARD:
        return f"{path} is no model bundle: it has no {CARD}. Pass the folder or zip that `save` made."
    return f"{path} has no {name}. The bundle is incomplete: get all of it again."


def up_to(limit: int, file: IO[bytes], name: str) -> bytes:
    """All of a file, piece by piece: nobody is believed who says how large it is."""
    pieces, size = [], 0
    while piece := file.read(PIECE):
        size += len(piece)
        if size > limit:
            raise TooLarge(f"{name} is larger than the {limit:,} bytes that it may have: altered. Get a new copy.")
        pieces.append(piece)
    return b"".join(pieces)


# The last record of a zip, in which its list of files is announced.
END, SIGNATURE, LOCATOR = struct.Struct("<4s4H2LH"), b"PK\x05\x06", struct.Struct("<4sLQL")
LARGEST_LIST = 2**16
# Weights hardly get smaller by compression, JSON ten times; beyond this it is a bomb.
RATIO, SMALL = 30, 2**20
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError, OSError)


class Zip:
    """The files of a bundle that is a zip."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self._size = path.stat().st_size
        self._entries = {entry.filename: entry for entry in file.infolist()}
        if len(self._entries) < len(file.infolist()):
            raise ValueError(f"{path} holds a file twice. {_instead(path)}")
        for entry in file.infolist():
            _check(entry, path)

    def named(self, name: str) -> str:
        """One of the files, for messages."""
        return f"{name} in {self.path}"

    def read(self, name: str, limit: int) -> bytes:
        """Read one of them."""
        entry = self._entries.get(name)
        if entry is None:
            raise FileNotFoundError(missing(self.path, name))
        most = min(limit, max(SMALL, RATIO * min(entry.compress_size, self._size)))
        if entry.file_size > most:
            raise ValueError(
                f"{self.named(name)} unpacks to {entry.file_size:,} bytes, and may have {most:,}: a zip bomb, or "
                "altered. Get a new copy."
            )
        # The list of files may lie about sizes, so bytes are counted as they come.
        with _readable(self.path), self._file.open(entry) as file:
            return up_to(most, file, self.named(name))


@contextmanager
def opened_zip(path: Path) -> Iterator[Zip]:
    """Open a bundle that is a zip.

    Raises
    ------
    ValueError
        If it is none, or holds anything but the two files of a bundle and its page, once and in the clear.
    """
    _check_end(path)
    with _readable(path):
        file = zipfile.ZipFile(path)
    with file:
        yield Zip(path, file)


def pack(folder: Path, out: Path) -> None:
    """Write the two files of a folder to a zip."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for name in (CARD, WEIGHTS):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            file.writestr(entry, (folder / name).read_bytes())


def _check(entry: zipfile.ZipInfo, path: Path) -> None:
    name = entry.orig_filename  # zipfile cuts names off at a NUL
    if name not in (CARD, WEIGHTS, PAGE):
        raise ValueError(
            f"{path} holds {name[:80]!r}, but a bundle is {CARD} and {WEIGHTS} at the top of the zip and nothing else. "
            f"Nothing was unpacked. {_instead(path)}"
        )
    if S_ISLNK(entry.external_attr >> 16):
        raise ValueError(f"{path} holds a link in place of {name}. Nothing was unpacked. {_instead(path)}")
    if entry.flag_bits & 1:
        raise ValueError(f"{path} is encrypted. Unpack it with its password, and pass the folder.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{path} is compressed in a way that is not read here. {_instead(path)}")


def _check_end(path: Path) -> None:
    """Look at the end of the file first, as the list that it announces is read whole."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - END.size - LOCATOR.size))
        before, last = (tail := file.read())[: -END.size], tail[-END.size :]
    if len(last) < END.size or not last.startswith(SIGNATURE):
        raise ValueError(f"{path} is no readable zip: truncated, or no zip. {_instead(path)}")
    *_, entries, bytes_of_list, _, comment = END.unpack(last)
    if before.startswith(b"PK\x06\x07") or comment or entries > 3 or bytes_of_list > LARGEST_LIST:
        raise ValueError(f"{path} holds more than a bundle: {entries:,} files, or notes beside them. {_instead(path)}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except TooLarge:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{path} is no readable zip ({error}): truncated or altered. {_instead(path)}") from error


def _instead(path: Path) -> str:
    return f"Get a new copy, or make one with `model.save({path.name!r})`."
