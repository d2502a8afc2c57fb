"""Where the weights of an encoder are: a file, a folder, the folder of weights, the cache, Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path

from deepspot._settings import settings

from ._hub import THREE_WAYS, cached, download
from ._read import IN_A_FOLDER, SUFFIXES
from ._spec import Spec

NO_WEIGHTS = (
    f"{{}} holds no weights: neither {' nor '.join(IN_A_FOLDER)}, nor a single file that ends in {', '.join(SUFFIXES)}."
)


def find(spec: Spec, weights: str | Path | None, token: str | None) -> Path:
    """File with the weights of an encoder; it is downloaded if it is nowhere here."""
    if weights is not None:
        return _given(spec, weights, token)
    folder = settings.weights()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r}, where weights should be. Correct `ds.settings.weights_dir` or the "
            "environment variable DEEPSPOT_WEIGHTS."
        )
    if folder is not None and (folder / spec.folder).is_dir() and at_hand(spec) is None:
        raise FileNotFoundError(f"{NO_WEIGHTS.format(folder / spec.folder)} Leave the right one there.")
    return at_hand(spec) or download(spec, spec.repositories[0], token)


def at_hand(spec: Spec) -> Path | None:
    """File with the weights of an encoder, if it is on this machine."""
    return _in_weights_dir(spec.folder) or cached(spec.repositories)


def _given(spec: Spec, weights: str | Path, token: str | None) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = _in_folder(path)
        if found is None:
            raise FileNotFoundError(f"{NO_WEIGHTS.format(path)} Pass the file itself.")
        return found
    if isinstance(weights, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", weights) and path.suffix not in SUFFIXES:
        return cached((weights,)) or download(spec, weights, token)
    raise FileNotFoundError(f"There is no file or folder {str(weights)!r}. {THREE_WAYS.format(name=spec.card.name)}")


def _in_weights_dir(name: str) -> Path | None:
    folder = settings.weights()
    if folder is None:
        return None
    files = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
    return _in_folder(folder / name) or next((file for file in files if file.is_file()), None)


def _in_folder(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    usual = [folder / name for name in IN_A_FOLDER if (folder / name).is_file()]
    others = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    # With several files of other names none is surely the right one.
    return usual[0] if usual else others[0] if len(others) == 1 else None
