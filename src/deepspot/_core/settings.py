from __future__ import annotations

import os
from dataclasses import dataclass, fields
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any

from deepspot.errors import InputError, InputTypeError, MissingPackageError

RUNTIMES = ("torch", "onnx")
MOST_SEED = 2**32 - 1
"""Largest seed of scikit-learn."""

WHOLE, NUMBER = ((Integral,), "a whole number"), ((Real,), "a number")
FOLDER = (str, Path, NoneType), "a path or None"
TYPES: dict[str, tuple[Any, str]] = {
    "device": ((str, NoneType), "text or None"),
    "batch_size": WHOLE,
    "workers": WHOLE,
    "runtime": ((str,), "text"),
    "progress": ((bool,), "True or False"),
    "seed": WHOLE,
    "max_table_gb": NUMBER,
    "embeddings_gb": NUMBER,
    "cache_dir": FOLDER,
    "weights_dir": FOLDER,
    "models_dir": FOLDER,
}


@dataclass
class Settings:
    """Defaults of all functions, used where the function's own argument is None.

    Attributes
    ----------
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None selects CUDA, else MPS, else the CPU.
    batch_size
        Tiles per call of an encoder.
    workers
        Threads that decode the image in parallel to the encoder.
    runtime
        Runtime of encoders on a CPU: ``"torch"``, or ``"onnx"`` for ONNX Runtime, which gives the same numbers up to
        rounding in about half the time for the embedded encoder (``pip install ".[onnx]"``). It needs memory for
        a second copy of the weights. Encoders that are not torch modules are not affected.
    progress
        Show progress bars (never shown if the output is not a terminal).
    seed
        Seed of all random numbers.
    max_table_gb
        Largest table that is created in memory, in GB.
    embeddings_gb
        Disk space, in GB, for the embeddings of predictions that are streamed to disk. Another model, or the
        continuation of an interrupted run, reuses them. The least recently used are deleted first. 0 disables the
        cache. The embeddings describe patients' tissue; they are in the folder `embeddings` of the cache, see
        :func:`deepspot.clear_cache`.
    cache_dir
        Folder of downloads and embeddings; None is ``$DEEPSPOT_CACHE`` or the cache folder of the operating system.
    weights_dir
        Folder with weights of encoders for machines without internet access, with a file or a folder for each encoder
        (``uni/pytorch_model.bin`` or ``uni.safetensors``); None is ``$DEEPSPOT_WEIGHTS``, if set.
    models_dir
        Folder with bundles that `ds.models.load` finds by name; None is ``$DEEPSPOT_MODELS``, or the folder `models` of
        the cache.
    """

    device: str | None = None
    batch_size: int = 64
    workers: int = min(4, os.cpu_count() or 1)
    runtime: str = "torch"
    progress: bool = True
    seed: int = 0
    max_table_gb: float = 4.0
    embeddings_gb: float = 50.0
    cache_dir: str | Path | None = None
    weights_dir: str | Path | None = None
    models_dir: str | Path | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        known = [field.name for field in fields(self)]
        if name not in known:
            raise AttributeError(f"deepspot has no setting {name!r}. Available settings: {known}.")
        types, wanted = TYPES[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise InputTypeError(f"`settings.{name}` must be {wanted}, got {value!r}.")
        if name == "seed" and not 0 <= value <= MOST_SEED:
            raise InputError(f"`settings.seed` must be from 0 to {MOST_SEED}, got {value!r}.")
        if name in ("batch_size", "workers", "max_table_gb") and not value > 0:
            raise InputError(f"`settings.{name}` must be above 0, got {value!r}.")
        if name == "embeddings_gb" and not value >= 0:
            raise InputError(f"`settings.{name}` must not be below 0, got {value!r}.")
        if name == "runtime" and value not in RUNTIMES:
            raise InputError(f"`settings.runtime` must be one of {list(RUNTIMES)}, got {value!r}.")
        if name == "runtime" and value == "onnx":
            missing = [package for package in ("onnxruntime", "onnxscript") if find_spec(package) is None]
            if missing:
                raise MissingPackageError(
                    f"`settings.runtime = 'onnx'` needs {' and '.join(missing)}. Install with "
                    '`pip install ".[onnx]"`.'
                )
        super().__setattr__(name, value)

    def cache(self, *parts: str) -> Path:
        """Return the path of a folder in the cache, without creating it."""
        root = self.cache_dir or os.environ.get("DEEPSPOT_CACHE")
        if root is None:
            import pooch

            root = pooch.os_cache("deepspot")
        return Path(root).expanduser().joinpath(*parts)

    def weights(self) -> Path | None:
        """Return the folder with weights of encoders, if one is set."""
        folder = self.weights_dir or os.environ.get("DEEPSPOT_WEIGHTS")
        return Path(folder).expanduser() if folder else None

    def models(self) -> Path:
        """Return the folder with models, without creating it."""
        folder = self.models_dir or os.environ.get("DEEPSPOT_MODELS")
        return Path(folder).expanduser() if folder else self.cache("models")


settings = Settings()
