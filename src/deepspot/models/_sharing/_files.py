"""The two files of a bundle as bytes, from a folder or a zip, and never more bytes than there may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    from ._zip import opened_zip

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
