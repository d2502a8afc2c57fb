"""Run AESTETIK without its side effects: log files, global seeds, cuDNN flags and environment variables."""

from __future__ import annotations

import io
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from typing import Any

import numpy as np
import pandas as pd

from deepspot.errors import MissingPackageError

WINDOW = 3
EPOCHS = 100
# Number of passes with dropout that are averaged. The default of AESTETIK, 1000, takes minutes per slide.
REPEATS = 100
LOGGERS = ("lightning.pytorch", "lightning.fabric")


def spatial_latent(components: np.ndarray, array: np.ndarray, seed: int) -> np.ndarray:
    """Return the joint latent space (n, 16) of expression components (n, k) and array positions (n, 2)."""
    from anndata import AnnData

    with _contained():
        try:
            from aestetik import AESTETIK
        except ImportError as error:
            raise MissingPackageError(
                "`method='aestetik'` needs the package aestetik, which is not installed: `pip install \".[aestetik]\"`."
            ) from error
        names = pd.Index([str(number) for number in range(len(components))])
        obs = pd.DataFrame({"x_array": array[:, 1].astype(int), "y_array": array[:, 0].astype(int)}, index=names)
        # Morphology has weight 0 but is required. A component of expression adds no information.
        obsm = {"X_pca_transcriptomics": components, "X_pca_morphology": components[:, :1]}
        # A float is the resolution of Leiden.
        options: dict[str, Any] = {"clustering_method": "leiden", "n_cluster": 1.0, "refine_cluster": False}
        options |= {"max_epochs": EPOCHS, "num_repeats_predict": REPEATS, "random_state": seed}
        model = AESTETIK(morphology_weight=0, window_size=WINDOW, **options)
        return np.asarray(model.fit(AnnData(obs=obs, obsm=obsm)).embedding_)


@contextmanager
def _contained() -> Iterator[None]:
    import lightning.pytorch  # noqa: F401 - its import sets the level of its loggers
    import torch

    environment, state, drawn = os.environ.copy(), random.getstate(), np.random.get_state()  # noqa: NPY002
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    cudnn = torch.backends.cudnn
    flags = {"deterministic": cudnn.deterministic, "benchmark": cudnn.benchmark, "enabled": cudnn.enabled}
    try:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with (
            tempfile.TemporaryDirectory() as scratch,
            chdir(scratch),
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng(),
            cudnn.flags(**flags),
            redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(state)
        np.random.set_state(drawn)  # noqa: NPY002
