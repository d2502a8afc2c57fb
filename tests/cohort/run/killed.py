"""Run a cohort in processes that kill themselves, one for each phase: not a test itself, see `test_kill.py`.

    python killed.py MANIFEST BUNDLE FOLDER PHASE...

Each process works in FOLDER/PHASE and is killed (by -9) in that phase of its first slide. They share the imports.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

# Imported once for all phases.
import dask.array  # noqa: F401
import distributed  # noqa: F401
import geopandas  # noqa: F401
import pandas as pd
import safetensors.torch  # noqa: F401
import sklearn.neighbors  # noqa: F401
import spatialdata.models  # noqa: F401
import torch  # noqa: F401
import wsidata  # noqa: F401

import deepspot as ds
from deepspot._features.cache import EmbeddingCache
from deepspot._sdata import zarr_store
from deepspot.cohort._run.folder import Folder
from deepspot.models._bundle import bundle
from deepspot.tl._predict import stream


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def then_die(real):
    """A function that does its work and then kills the process."""

    def wrapped(*args, **kwargs):
        real(*args, **kwargs)
        die()

    return wrapped


def then_half(real, nth):
    """A method that leaves half a file instead and kills the process, the nth time that it is called."""
    calls = []

    def wrapped(self, path, *args, **kwargs):
        calls.append(1)
        if len(calls) < nth:
            return real(self, path, *args, **kwargs)
        Path(path).write_text("half of what")
        return die()

    return wrapped


def half_of_pseudobulk(real):
    """A method that writes half of the profiles and kills the process."""

    def wrapped(self, content):
        if self.suffix != ".h5ad":
            return real(self, content)
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        return die()

    return wrapped


def arm(phase):
    """Set up the kill of a phase."""
    if phase == "model":
        bundle.write_files = then_die(bundle.write_files)
    if phase == "opening":
        ds.io.slide = then_die(ds.io.slide)
    if phase == "spots":
        ds.pp.spots = then_die(ds.pp.spots)
    if phase == "embedding":
        EmbeddingCache.put = then_die(EmbeddingCache.put)
    if phase == "predicting":
        ds.models.DeepSpot.predict = then_die(ds.models.DeepSpot.predict)
    if phase == "writing":
        stream.write_table_in_blocks = then_die(stream.write_table_in_blocks)
    if phase == "completing":
        zarr_store.complete = then_die(zarr_store.complete)
    if phase == "placed":
        Folder.place = then_die(Folder.place)
    if phase == "run_table":
        pd.DataFrame.to_csv = then_half(pd.DataFrame.to_csv, 2)  # the first call is before any slide
    if phase == "pseudobulk":
        Path.write_bytes = half_of_pseudobulk(Path.write_bytes)


def encoder():
    spec = importlib.util.spec_from_file_location("conftest_of_all", Path(__file__).parents[2] / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MeanColor()


def main(manifest, model, folder, *phases):
    mean_color = encoder()
    for phase in phases:
        child = os.fork()
        if child == 0:
            arm(phase)
            ds.settings.cache_dir = Path(folder) / f"cache_{phase}"
            ds.cohort.run(manifest, model, Path(folder) / phase, encoder=mean_color)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{phase} {os.WTERMSIG(status) if os.WIFSIGNALED(status) else 'lived'}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
