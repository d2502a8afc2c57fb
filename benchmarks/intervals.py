"""Whether the interval of expected r holds the r of the next slide of a new patient.

    python benchmarks/intervals.py

Toy cohorts whose stains and batches differ more than by default. Ridge on mean and standard deviation of the colors of
every spot stands for a model, because it is fitted in a moment: the folds, the reliability and its intervals are those
of `ds.models.train`. Models of 3 to 12 patients, with one or two slides each, predict one slide of each of 16 other
patients. Coverage is the share of genes and slides whose Pearson r lies within the 90 % interval, and for comparison
within the t interval of the mean over patients, which `expected_r_low` and `expected_r_high` were before. Writes
benchmarks/results/intervals.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.stats import t

from deepspot._features.bags import Bags
from deepspot._stats.metrics import pearson
from deepspot.datasets._toy.toy import toy_slide
from deepspot.models._baselines import Ridge
from deepspot.models._confidence.folds import make_folds
from deepspot.models._confidence.reliability import measure_reliability

COHORTS, SIZES, POOL, NEW, GENES = range(8), (3, 4, 6, 9, 12), 12, 16, 60
TOY = {"n_rows": 8, "n_cols": 9, "mpp": 2.0, "depth": 1500.0, "stain_shift": 1.0, "batch_effect": 0.5}
DIAMETER_UM = 55
RESULT = Path(__file__).parent / "results" / "intervals.md"


def main() -> None:
    found = pd.concat([models_of(seed, per_patient) for seed in COHORTS for per_patient in (1, 2)])
    lines = [
        "| slides of a patient | patients | models | coverage | in thirds of expected r | coverage before | width | "
        "width before | below 0.1 before | kept by low > 0 | of these r ≤ 0 |",
        "|--:|--:|--:|--:|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for (per_patient, n), part in found.groupby(["per_patient", "n"]):
        thirds = ", ".join(f"{mean:.0%}" for mean in part.groupby("third")["inside"].mean())
        kept = part[part["low"] > 0]
        lines.append(
            f"| {per_patient} | {n} | {part['model'].nunique()} | {part['inside'].mean():.0%} | {thirds} | "
            f"{part['inside_before'].mean():.0%} | {part['width'].median():.2f} | {part['width_before'].median():.2f} "
            f"| {(part['width_before'] < 0.1).mean():.0%} | {len(kept) / len(part):.0%} "
            f"| {(kept['r'] <= 0).mean():.1%} |"
        )
    lines += ["", f"No interval is narrower than {found['width'].min():.2f}."]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


def models_of(seed: int, per_patient: int) -> pd.DataFrame:
    """Return r of every gene on every new slide, with the intervals of models of disjoint sets of patients."""
    known = [[slide(patient, number, seed) for number in range(1, per_patient + 1)] for patient in range(1, POOL + 1)]
    new = [slide(patient, 1, seed) for patient in range(POOL + 1, POOL + NEW + 1)]
    return pd.concat(
        scored(known[first : first + n], new, {"model": f"{seed}-{first}", "n": n, "per_patient": per_patient})
        for n in SIZES
        for first in range(0, POOL - n + 1, n)
    )


def slide(patient: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, 6) and log-expression (n, genes) of a slide."""
    adata, image, _ = toy_slide(patient, number, n_genes=GENES, seed=seed, **TOY)
    half = round(DIAMETER_UM / TOY["mpp"] / 2)
    tiles = [
        image[max(y - half, 0) : y + half, max(x - half, 0) : x + half].reshape(-1, 3)
        for x, y in np.asarray(adata.obsm["spatial"]).round().astype(int)
    ]
    counts = adata.X.toarray()
    expression = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    return np.stack([[*tile.mean(axis=0), *tile.std(axis=0)] for tile in tiles]).astype(np.float32), expression


def scored(
    known: list[list[tuple[np.ndarray, np.ndarray]]], new: list[tuple[np.ndarray, np.ndarray]], of: dict[str, object]
) -> pd.DataFrame:
    slides = [each for patient in known for each in patient]
    sizes = [len(spots) for spots, _ in slides]
    names = np.repeat(np.arange(len(slides)), sizes)
    patients = names // len(known[0])
    bags, targets = bags_of(np.concatenate([spots for spots, _ in slides])), np.concatenate([y for _, y in slides])
    folds, rows = make_folds(np.arange(len(bags)), names, patients), np.arange(len(bags))
    predicted = np.full(targets.shape, np.nan)
    for train, held in folds.splits:
        predicted[held] = fitted(bags, targets, train, names, patients).predict(bags, rows=held)
    found = measure_reliability(predicted, targets, folds, names)
    low, high, expected = (np.array(values) for values in (found.r_low, found.r_high, found.r))
    model = fitted(bags, targets, rows, names, patients)
    r = np.stack([np.nan_to_num(pearson(model.predict(bags_of(spots)), truth)) for spots, truth in new])
    before = np.stack([np.nan_to_num(pearson(predicted[names == name], targets[names == name])) for name in set(names)])
    before = before.reshape(len(known), -1, GENES).mean(axis=1)
    half = t.ppf(0.95, len(known) - 1) * before.std(axis=0, ddof=1) / np.sqrt(len(known))
    repeated = {
        "low": low,
        "width": high - low,
        "width_before": 2 * half,
        "third": pd.qcut(expected, 3, labels=False),
    }
    by_slide = {
        "r": r,
        "inside": (low <= r) & (r <= high),
        "inside_before": np.abs(r - before.mean(axis=0)) <= half,
    }
    tiled = {name: np.tile(values, len(new)) for name, values in repeated.items()}
    return pd.DataFrame(tiled | {name: values.ravel() for name, values in by_slide.items()}).assign(**of)


def bags_of(spots: np.ndarray) -> Bags:
    return Bags(spots, None, csr_matrix((len(spots), len(spots))))


def fitted(bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> Ridge:
    return Ridge(context=("spot",)).fit(bags, targets, rows=rows, slides=slides, patients=patients)


if __name__ == "__main__":
    main()
