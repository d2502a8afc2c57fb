"""Compressed files are unpacked in a stream, up to a limit: a small file can hold more than a disk does."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO

PIECE = 2**22
UNREADABLE = (
    EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, UnicodeDecodeError,
    OverflowError, OSError,
)  # fmt: skip


def gunzip(packed: Path, target: Path, max_gb: float) -> Path:
    """Unpack a .gz file to `target`.

    Raises
    ------
    ValueError
        If it is cut off or damaged, or holds more than `max_gb`.
    """
    try:
        with gzip.open(packed) as source:
            return _copy(source, target, packed, max_gb)
    except UNREADABLE as error:
        _raise_if_of_this_machine(error)
        raise _damaged(packed, error) from error


def unzip(archive: Path, member: str, target: Path, max_gb: float) -> Path:
    """Unpack one member of a .zip file, which is known by its exact name, to `target`.

    Raises
    ------
    ValueError
        If the archive is cut off or damaged, or lacks the member, or this holds more than `max_gb`.
    """
    try:
        with zipfile.ZipFile(archive) as members:
            if member not in members.namelist():
                raise ValueError(f"{archive} has no {member!r}. Is it the archive that was published? Get it again.")
            with members.open(member) as source:
                return _copy(source, target, archive, max_gb)
    except UNREADABLE as error:
        _raise_if_of_this_machine(error)
        raise _damaged(archive, error) from error


def _copy(source: IO[bytes] | gzip.GzipFile, target: Path, packed: Path, max_gb: float) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")  # what was cut short must not look like a whole one
    written = 0
    try:
        with partial.open("wb") as sink:
            while piece := source.read(PIECE):
                written += len(piece)
                if written > max_gb * 1e9:
                    raise ValueError(
                        f"{packed} unpacks to more than {max_gb:g} GB, so it may be made to fill the disk. If you "
                        "trust it, raise the limit with `max_gb=`."
                    )
                sink.write(piece)
        return partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _raise_if_of_this_machine(error: Exception) -> None:
    """A full disk or a missing right is said by the system, with a number; a damaged file by Python, without."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _damaged(packed: Path, error: Exception) -> ValueError:
    return ValueError(f"{packed} is damaged or cut off ({error}). Delete it and get it again.")
