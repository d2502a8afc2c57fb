"""Finished work on disk: each unit under a name that says what it depends on, all of it or nothing."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.logging import logger

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Records:
    """A folder of finished work, or none.

    Attributes
    ----------
    folder
        Where files ``<key>.npz`` lie; None keeps nothing.
    """

    folder: Path | None = None

    def get(self, key: str, work: Callable[[], Arrays], about: Mapping[str, Any]) -> Arrays:
        """Result of a unit of work: read if it is there and whole, otherwise done and kept.

        Parameters
        ----------
        key
            Content hash of all that the result depends on.
        work
            Does it.
        about
            What a person wants to know of the file; kept in it as JSON.
        """
        if self.folder is None:
            return work()
        path = self.folder / f"{key}.npz"
        found = _read(path, key)
        if found is None:
            found = work()
            _write(path, key, found, about)
        return found


def _read(path: Path, key: str) -> Arrays | None:
    if not path.exists():
        return None
    try:
        # Opened here, as numpy leaves a file open that it cannot read.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about, seal = json.loads(str(arrays.pop("about"))), str(arrays.pop("seal"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s cannot be read (%s): its work is done again.", path, error)
        return None
    if seal != _seal(key, arrays, about):
        logger.warning("%s does not hold what it held when it was written: its work is done again.", path)
        return None
    return arrays


def _write(path: Path, key: str, arrays: Arrays, about: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = json.dumps(about)
    sealed = {**arrays, "about": np.array(told), "seal": np.array(_seal(key, arrays, json.loads(told)))}
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{key}-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **sealed)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _seal(key: str, arrays: Arrays, about: Any) -> str:
    return digest(key, about, *(part for name in sorted(arrays) for part in (name, arrays[name])))
