from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

PIECE, PIECES = 2**20, 64


def digest(*parts: Any) -> str:
    """Content hash (16 hex digits) of arrays, strings and anything that JSON can write."""
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            hasher.update(f"{part.dtype.str}{part.shape}".encode())
            hasher.update(np.ascontiguousarray(part).data)
        else:
            hasher.update(json.dumps(part, sort_keys=True).encode())
        hasher.update(b"\0")
    return hasher.hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Content hash (16 hex digits) of a file, in a time that does not grow with it.

    Up to 64 MB every byte counts. Of a larger file it is the size and 64 pieces of 1 MB: head, tail and 62 evenly
    spaced between. So it tells slides apart, and one that was scanned again, cut off or still being copied. It cannot
    notice a change of some bytes between the pieces, nor one of files beside (MRXS keeps its pixels in a folder).
    """
    size = path.stat().st_size
    whole = size <= PIECE * PIECES
    starts = range(0, size, PIECE) if whole else np.linspace(0, size - PIECE, PIECES).astype(int).tolist()
    hasher = hashlib.sha256(f"{size}\0".encode())
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            hasher.update(file.read(PIECE))
    return hasher.hexdigest()[:16]
