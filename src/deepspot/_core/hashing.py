from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np

PIECE, PIECES = 2**20, 64


def digest(*parts: Any) -> str:
    """Return the content hash (16 hex digits) of arrays, strings and other values that JSON can represent."""
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            hasher.update(f"{part.dtype.str}{part.shape}".encode())
            hasher.update(np.ascontiguousarray(part).data)
        else:
            hasher.update(json.dumps(part, sort_keys=True).encode())
        hasher.update(b"\0")
    return hasher.hexdigest()[:16]


def source_of(code: Any) -> str:
    """Return the source of a function or class; OSError or TypeError if it has none."""
    function = inspect.unwrap(code)
    # Python 3.13 takes the text of `python -c` for the source of all code that was made from a string.
    if inspect.isfunction(function) and function.__code__.co_filename == "<string>":
        raise OSError("made from a string")
    return inspect.getsource(code)


def hash_file(path: Path) -> str:
    """Return the content hash (16 hex digits) of a file, in constant time for large files.

    Files of up to 64 MB are hashed completely. For larger ones, the hash covers the size and 64 evenly spaced pieces of
    1 MB, including both ends. This distinguishes slides, rescans, truncated and incomplete copies. It does not detect
    changes between the pieces, nor in companion files (MRXS keeps its pixels in a folder).
    """
    size = path.stat().st_size
    if size <= PIECE * PIECES:
        starts = list(range(0, size, PIECE))
    else:
        starts = np.linspace(0, size - PIECE, PIECES).astype(int).tolist()
    hasher = hashlib.sha256(f"{size}\0".encode())
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            hasher.update(file.read(PIECE))
    return hasher.hexdigest()[:16]
