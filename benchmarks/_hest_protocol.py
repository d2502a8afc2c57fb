"""The protocol of HEST-Benchmark, from its description: precomputed embeddings, PCA, ridge, pooled Pearson r.

The settings are theirs, also where they are unusual: see docs/evaluation.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import deepspot as ds

SEED = 1


@dataclass(frozen=True)
class Settings:
    """Settings of the ridge of HEST-Benchmark; the defaults are those of the leaderboard."""

    pca: int | None = 256  # None takes the raw embeddings, without scaling
    log1p: bool = True  # of the raw counts
    alpha: float | None = None  # None is their formula
    solver: str = "lsqr"
    fit_intercept: bool = False


def read_embeddings(file: Path, barcodes: list[str]) -> np.ndarray:
    """Return embeddings (n, d) in the order of the barcodes."""
    with h5py.File(file) as content:
        found = [value.decode() for value in np.asarray(content["barcodes"]).ravel()]
        values = np.asarray(content["embeddings"])
    row = {barcode: number for number, barcode in enumerate(found)}
    missing = [barcode for barcode in barcodes if barcode not in row]
    if missing or len(row) < len(found):
        raise ValueError(f"{file} lacks barcode {missing[:1]} or has one twice. Embed the patches again.")
    return values[[row[barcode] for barcode in barcodes]]


def load(task: ds.datasets.Benchmark, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return embeddings (n, d) and raw counts (n, genes) of every slide, in the order of the patches."""
    embeddings, counts = {}, {}
    for name, slide in task.slides.items():
        table = slide["table"]
        embeddings[name] = read_embeddings(folder / f"{name}.h5", table.obs["barcode"].tolist())
        counts[name] = table[:, task.genes].X.toarray().astype(np.float64)
    return embeddings, counts


def predict_fold(
    train: tuple[np.ndarray, np.ndarray], test: np.ndarray, settings: Settings
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit to embeddings and targets of the training spots; return the prediction (n, genes) of the test spots."""
    import torch

    x, y = train
    if settings.pca is not None:
        made = StandardScaler().fit(x)
        reduce = PCA(settings.pca, random_state=SEED).fit(made.transform(x))
        # As a tensor of float32, which scikit-learn takes to float64; an array of float32 would stay that.
        x, test = (torch.Tensor(reduce.transform(made.transform(part))) for part in (x, test))
    alpha = 100 / (x.shape[1] * y.shape[1]) if settings.alpha is None else settings.alpha
    options: dict[str, Any] = {"max_iter": 1000} if settings.solver == "lsqr" else {}
    ridge = Ridge(
        alpha=alpha, solver=settings.solver, fit_intercept=settings.fit_intercept, random_state=SEED, **options
    )
    return ridge.fit(x, y).predict(test), {"alpha": alpha}


def run(
    embeddings: dict[str, np.ndarray],
    targets: dict[str, np.ndarray],
    splits: dict[str, list[list[str]]],
    settings: Settings,
) -> list[dict[str, np.ndarray]]:
    """Return for every fold the prediction and the measurement (n, genes) of its test slides, and the slide (n,)."""
    folds = []
    for train, test in splits.values():
        x, y = (np.concatenate([values[name] for name in train]) for values in (embeddings, targets))
        rows = [np.full(len(embeddings[name]), name) for name in test]
        predicted, _ = predict_fold((x, y), np.concatenate([embeddings[name] for name in test]), settings)
        measured = np.concatenate([targets[name] for name in test])
        folds.append({"predicted": predicted, "measured": measured, "slide": np.concatenate(rows)})
    return folds


def to_scale(counts: dict[str, np.ndarray], settings: Settings) -> dict[str, np.ndarray]:
    """Return the targets of HEST-Benchmark: log1p of the raw counts, or the raw counts."""
    return {name: np.log1p(values) if settings.log1p else values for name, values in counts.items()}


def pooled(folds: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Return r (genes, folds) over all test spots of a fold; NaN for a constant gene, as in the benchmark."""
    return np.array(
        [[pearsonr(a, b)[0] for a, b in zip(f["measured"].T, f["predicted"].T, strict=True)] for f in folds]
    ).T


def per_slide(folds: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Return r within a slide (folds,): the mean over genes, then over the slides of a fold."""
    means = []
    for fold in folds:
        masks = [fold["slide"] == name for name in dict.fromkeys(fold["slide"])]
        parts = [{side: fold[side][rows] for side in ("predicted", "measured")} for rows in masks]
        means.append(pooled(parts).mean())
    return np.array(means)


def errors(folds: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    """Return the mean over genes and folds of the squared error and of R²."""
    mse = [((f["predicted"] - f["measured"]) ** 2).mean(axis=0) for f in folds]
    r2 = [1 - error / f["measured"].var(axis=0) for error, f in zip(mse, folds, strict=True)]
    return float(np.mean(mse)), float(np.mean(r2))


PUBLISHED = {
    "pca32": Settings(pca=32),
    "nopca": Settings(pca=None),
    "pca32_raw": Settings(pca=32, log1p=False),
}
EXACT = replace(PUBLISHED["pca32"], solver="cholesky")
