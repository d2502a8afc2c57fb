"""Finished fits on disk: one file each, named by a content hash and written as a whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.logging import logger

Arrays = dict[str, np.ndarray]


def load_or_run(path: Path, work: Callable[[], Arrays], about: Mapping[str, Any]) -> Arrays:
    """Read a result if its file is intact; otherwise compute and write it, with `about` as JSON for readers.

    The stem of `path` (``.npz``) is a hash of all that the result depends on.
    """
    found = read(path)
    if found is None:
        found = work()
        _write(path, found, about)
    return found


def read(path: Path) -> Arrays | None:
    """Return the arrays of a file; None, with a warning, if it is damaged or of another result."""
    if not path.exists():
        return None
    try:
        # numpy leaves a file open that it cannot read, so it is opened here.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about, seal = json.loads(str(arrays.pop("about"))), str(arrays.pop("seal"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s cannot be read (%s): this fit is repeated.", path, error)
        return None
    if seal != _seal(path, arrays, about):
        logger.warning("%s has changed since it was written: this fit is repeated.", path)
        return None
    return arrays


def _write(path: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about)
    sealed: dict[str, Any] = {
        **arrays,
        "about": np.array(text),
        "seal": np.array(_seal(path, arrays, json.loads(text))),
    }
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **sealed)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _seal(path: Path, arrays: Arrays, about: Any) -> str:
    return digest(path.stem, about, *(part for name in sorted(arrays) for part in (name, arrays[name])))
