"""What is taken from a file of predictions: not all of it, which can be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepspot._core.validate import check_genes
from deepspot._sdata.zarr_store import check_fits_in_memory
from deepspot._stats.log_scale import check_log_scale
from deepspot.datasets._shared.h5ad import check_extent, reading

ROWS = 1000
IMAGE = "hires"


@dataclass(frozen=True)
class Content:
    """Parts of a file of predictions.

    Attributes
    ----------
    X
        (n, genes) float32, not below 0.
    negative
        Share of the values that were.
    obs, var
        Of the spots and of these genes.
    all_genes
        Names of all genes of the file, in its order.
    spatial
        (n, 2) coordinates in the small image, if any.
    image
        The small image (h, w, 3 or 4), if any.
    stated
        What the file says of its scale.
    """

    X: np.ndarray
    negative: float
    obs: pd.DataFrame
    var: pd.DataFrame
    all_genes: list[str]
    spatial: np.ndarray | None
    image: np.ndarray | None
    stated: dict[str, float]


def load(path: Path, genes: str | Sequence[str] | None) -> Content:
    """Load a file of predictions, or some genes of it."""
    import h5py
    from anndata.io import read_elem

    check_extent(path)
    with ExitStack() as opened:
        with reading(path):
            file = opened.enter_context(h5py.File(path))
            obs, var = read_elem(file["obs"]), read_elem(file["var"])
            stored = file["X"] if isinstance(file["X"], h5py.Dataset) else read_elem(file["X"]).tocsr()
            spatial = np.asarray(read_elem(file["obsm/spatial"]), dtype=float) if "obsm/spatial" in file else None
            image, stated = _library(file)
            shape = (len(obs), len(var))
        if stored.shape != shape:
            raise ValueError(f"X of {path.name} is {stored.shape}, but its obs and var are {shape}. Get it again.")
        if not var.index.is_unique:
            raise ValueError(f"Gene names of {path.name} are not unique, so nobody knows which is meant.")
        names = [str(name) for name in var.index]
        wanted = names if genes is None else check_genes(genes, names, path.name)
        columns = pd.Index(names).get_indexer(pd.Index(wanted))
        check_fits_in_memory((len(obs), len(columns)), "Choose fewer genes with `genes=`")
        X, negative = _expression(stored, columns, path)
    check_log_scale(X[:ROWS], f"X of {path.name}", said=True)
    return Content(X, negative, obs, var.iloc[columns].copy(), names, spatial, image, stated)


def _expression(stored: Any, columns: np.ndarray, path: Path) -> tuple[np.ndarray, float]:
    """Expression (n, genes), not below 0, and the share of values that were; read in blocks where it is dense."""
    X = np.empty((stored.shape[0], len(columns)), dtype=np.float32)
    below = 0
    for start in range(0, len(X), ROWS):
        with reading(path):
            block = stored[start : start + ROWS]
            values = (block if isinstance(block, np.ndarray) else block.toarray())[:, columns].astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"X of {path.name} has values that are not finite. Get it again.")
        below += int((values < 0).sum())
        X[start : start + ROWS] = np.maximum(values, 0)
    return X, below / max(X.size, 1)


def _library(file: Any) -> tuple[np.ndarray | None, dict[str, float]]:
    """The small image, and µm per pixel as far as they are stated; anything else in `uns` stays in the file."""
    from anndata.io import read_elem

    libraries = file.get("uns/spatial", {})
    for library in libraries.values():
        image = library.get(f"images/{IMAGE}")
        stated = {
            part: float(read_elem(library[f"{part}/microns_per_pixel"]))
            for part in ("metadata", "scalefactors")
            if f"{part}/microns_per_pixel" in library
        }
        pixels = None if image is None else np.asarray(read_elem(image))
        fits = pixels is not None and pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype == np.uint8
        return pixels if fits else None, stated
    return None, {}
