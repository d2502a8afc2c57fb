"""Which score tells spots unlike the training data: share of spots flagged on similar and on foreign tissue.

    DEEPSPOT_DATA=../shared/data python benchmarks/novelty.py

Trained on sections of patient C, tested on the one left out (another section of the same patient: few spots should be
flagged), on B4 (another patient) and on mouse brain (all should be). Thresholds come from held-out training spots
alone. Candidates: cosine distance to the nearest training spots (`models._novelty`); probabilistic PCA, which is the
Mahalanobis distance within k components plus the scaled residual, with k = 64 or the k of highest held-out likelihood.
Writes benchmarks/results/novelty.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
from _sections import load
from spatialdata import SpatialData

import deepspot as ds
from deepspot.models._confidence.folds import make_folds
from deepspot.models._confidence.ood import SHARE_BELOW, OODDetector

C = ["C2", "C3", "C4", "C5"]
SPLITS = [([name for name in C if name != test], test) for test in C[::-1]]
SPLITS += [(["B4", "C2", "C3", "C4"], "C5"), (["C2"], "C5")]
COMPONENTS, FIXED = (32, 64, 128, 192, 256), 64
OUT = Path(__file__).parent / "results" / "novelty.md"

Flag = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    ds.settings.progress = False
    slides = {name: embeddings(sdata) for name, sdata in load([*C, "B4"]).items()}
    slides["mouse brain"] = embeddings(mouse())
    lines = ["| score | trained on | held-out section | B4 | mouse brain |", "|---|---|---|---|---|"]
    for label, candidate in CANDIDATES.items():
        for training, test in SPLITS:
            spot = np.concatenate([slides[name] for name in training])
            names = np.repeat(training, [len(slides[name]) for name in training])
            flag, note = candidate(spot, names, np.array([name[0] for name in names]))
            cells = [f"{flag(slides[name]).mean():.1%}" for name in (test, "B4", "mouse brain")]
            cells[0] = f"{test}: {cells[0]}"
            cells[1] = "in training" if "B4" in training else cells[1]
            lines.append("| " + " | ".join([label + note, ", ".join(training), *cells]) + " |")
            print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n")


def mouse() -> SpatialData:
    folder = Path(os.environ["DEEPSPOT_DATA"]) / "visium_mouse_brain_crop"
    adata = ad.read_h5ad(folder / "test_data.h5ad")
    sdata = ds.io.from_anndata(adata, folder / "test_img.jpg", spot_pitch_um=100)
    # 100 µm: the tiles that a model of these sections cuts, although these spots are 55 µm wide.
    ds.pp.embed(sdata, tile_um=100, subspots=False)
    return sdata


def embeddings(sdata: SpatialData) -> np.ndarray:
    return np.asarray(sdata.tables["lite0_stats_spots"].X, dtype=np.float32)


def nearest(spot: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> tuple[Flag, str]:
    detector = OODDetector.fit(spot, np.arange(len(spot)), slides, patients)
    return lambda spot: detector.score(spot) > 1, ""


def mahalanobis(components: tuple[int, ...]) -> Callable[..., tuple[Flag, str]]:
    def fit(spot: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> tuple[Flag, str]:
        splits = make_folds(np.arange(len(spot)), slides, patients).splits
        usable = [k for k in components if k < min(len(learnt) for learnt, _ in splits)]
        held = {k: [] for k in usable}
        likelihood = dict.fromkeys(usable, 0.0)
        for learnt, test in splits:
            spectrum = decompose(spot[learnt])
            for k in usable:
                scores, constant = distance(spectrum, spot[test], k)
                held[k].append(scores)
                likelihood[k] -= (scores + constant).sum()
        k = max(usable, key=likelihood.get)
        threshold = np.quantile(np.concatenate(held[k]), SHARE_BELOW)
        spectrum = decompose(spot)
        return lambda other: distance(spectrum, other, k)[0] > threshold, f", k = {k}"

    return fit


def decompose(spot: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = spot.mean(axis=0)
    _, singular, axes = np.linalg.svd(spot - mean, full_matrices=False)
    return mean, axes, singular**2 / (len(spot) - 1)


def distance(spectrum: tuple, spot: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Squared distance of probabilistic PCA, and the constant that makes it -2 × the log-likelihood."""
    mean, axes, variance = spectrum
    rest = spot.shape[1] - k
    noise = variance[k:].mean()  # as scikit-learn's PCA; over all dimensions it flags less mouse brain
    along = (spot - mean) @ axes[:k].T
    residual = ((spot - mean) ** 2).sum(axis=1) - (along**2).sum(axis=1)
    constant = np.log(variance[:k]).sum() + rest * np.log(noise)
    return (along**2 / variance[:k]).sum(axis=1) + residual / noise, float(constant)


CANDIDATES = {
    "nearest training spots": nearest,
    "Mahalanobis": mahalanobis((FIXED,)),
    "Mahalanobis, k by likelihood": mahalanobis(COMPONENTS),
}

if __name__ == "__main__":
    main()
