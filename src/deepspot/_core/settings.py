from __future__ import annotations

import os
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deepspot.errors import InputError, MissingPackageError

RUNTIMES = ("torch", "onnx")


@dataclass
class Settings:
    """Defaults that every function falls back to where its own argument is None.

    Attributes
    ----------
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None takes CUDA, then MPS, then the CPU.
    batch_size
        Tiles that go through an encoder at once.
    workers
        Threads that decode the image, ahead of the encoder.
    runtime
        What computes an encoder on a CPU: ``"torch"``, or ``"onnx"`` for ONNX Runtime, which gives the same numbers to
        rounding and takes about half the time for the embedded encoder (``pip install "deepspot[onnx]"``). It holds the
        weights a second time. Encoders that are no torch modules are not affected.
    progress
        Show progress bars (they stay silent anyway where the output is not a terminal).
    seed
        Seed of everything random.
    max_table_gb
        Largest table that is built in memory, in GB.
    embeddings_gb
        Disk space, in GB, for the embeddings that predictions streamed to disk keep, so that another model or a run
        that was killed need not embed again. Those not used for longest make room. 0 keeps none. They describe
        patients' tissue, and lie in the folder `embeddings` of the cache; see :func:`deepspot.clear_cache`.
    cache_dir
        Where downloads and embeddings are kept; None is ``$DEEPSPOT_CACHE`` or the cache folder of the operating
        system.
    weights_dir
        Folder with weights of encoders, each as a folder or a file of the encoder's name (``uni/pytorch_model.bin`` or
        ``uni.safetensors``), for machines without internet; None is ``$DEEPSPOT_WEIGHTS``, or no such folder.
    models_dir
        Folder with bundles, which `ds.models.load` then finds by their name; None is ``$DEEPSPOT_MODELS``, or the
        folder `models` of the cache.
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
        if name in ("batch_size", "workers", "max_table_gb") and not value > 0:
            raise InputError(f"`settings.{name}` must be above 0, got {value!r}.")
        if name == "embeddings_gb" and not value >= 0:
            raise InputError(f"`settings.{name}` must not be below 0, got {value!r}.")
        if name == "runtime" and value not in RUNTIMES:
            raise InputError(f"`settings.runtime` must be one of {list(RUNTIMES)}, got {value!r}.")
        if name == "runtime" and value == "onnx":
            _check_onnx()
        super().__setattr__(name, value)

    def cache(self, *parts: str) -> Path:
        """Path of a folder in the cache (it is not created here)."""
        root = self.cache_dir or os.environ.get("DEEPSPOT_CACHE")
        if root is None:
            import pooch

            root = pooch.os_cache("deepspot")
        return Path(root).joinpath(*parts)

    def weights(self) -> Path | None:
        """Folder with weights of encoders, if there is one."""
        folder = self.weights_dir or os.environ.get("DEEPSPOT_WEIGHTS")
        return Path(folder).expanduser() if folder else None

    def models(self) -> Path:
        """Folder in which models are found by name (it is not created here)."""
        folder = self.models_dir or os.environ.get("DEEPSPOT_MODELS")
        return Path(folder).expanduser() if folder else self.cache("models")


def _check_onnx() -> None:
    missing = [name for name in ("onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"`settings.runtime = 'onnx'` needs {' and '.join(missing)}. Install with "
            "`pip install \"deepspot[onnx]\"`, or leave it at 'torch'."
        )


settings = Settings()
