"""Mean of the neighbors against their maximum, at the size of the default, in nested cross-validation by patient.

    DEEPSPOT_DATA=../shared/data python benchmarks/neighbor_mean.py

Ridge, and the network of the default without its gate, on the folds, genes and embeddings of `systems.py`, with the
maximum over the neighbors (as in the paper) and with their mean. Means over the seeds; ridge has no seed. Fits are kept
in the cache, so that an interrupted run goes on. Writes benchmarks/results/neighbor_mean.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from neighbor_weights import table
from systems import COHORTS, QUICK, machine
from torch import Tensor

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot.models import _inputs
from deepspot.models._baselines import ridge
from deepspot.models._network import fit, train_members
from deepspot.models._network.network import Network

SEEDS = (0, 1, 2)
OUT = Path(__file__).parent / "results" / "neighbor_mean.md"


class MeanNetwork(Network):
    """Network that takes the mean of φ over the neighbors."""

    def pool_neighbors(self, represented: Tensor, real: Tensor) -> Tensor:
        return (represented * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


class MeanDeepSpot(ds.models.DeepSpot):
    """DeepSpot with this network."""

    def fit(self, *args: Any, **options: Any) -> Any:
        with (
            mock.patch.object(fit, "Network", MeanNetwork),
            mock.patch.object(train_members, "Network", MeanNetwork),
        ):
            return super().fit(*args, **options)


def mean_features(bags: Bags, context: Any = _inputs.CONTEXT, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Concatenate the spot, the mean of its sub-spots, and the mean of its neighbors."""
    rows = np.arange(len(bags)) if rows is None else rows
    near = bags.neighbors[rows].astype(np.float32)
    mean = (near @ bags.spot.astype(np.float32)) / np.maximum(np.asarray(near.sum(axis=1)), 1)
    return np.hstack([_inputs.context_features(bags, ("spot", "subspots"), rows=rows), mean]).astype(np.float32)


class MeanRidge(ds.models.Ridge):
    """Ridge with these features."""

    def _fit(self, *args: Any, **options: Any) -> None:
        with mock.patch.object(ridge, "context_features", mean_features):
            super()._fit(*args, **options)

    def predict_standardized(self, bags: Bags, *, rows: np.ndarray | None = None) -> np.ndarray:
        with mock.patch.object(ridge, "context_features", mean_features):
            return super().predict_standardized(bags, rows=rows)


ALONE = QUICK | {"gate": "off"}
MODELS = {
    "network: maximum": partial(ds.models.DeepSpot, training=ALONE),
    "network: mean": partial(MeanDeepSpot, training=ALONE),
    "ridge: maximum": ds.models.Ridge,
    "ridge: mean": MeanRidge,
}
BASELINES = {name: f"{name}: maximum" for name in ("network", "ridge")}


def measure(cohort: str) -> str:
    slides, runs = COHORTS[cohort].slides(), []
    for seed in SEEDS:
        cv = ds.models.cross_validate(
            slides,
            patient_key="patient",
            models=MODELS,
            out=ds.settings.cache("benchmarks", "folds"),
            seed=seed,
            **COHORTS[cohort].options,
        )
        runs.append(cv)
        print(cohort, seed, cv.areas().mean(axis=1).round(4), sep="\n", flush=True)
    return "\n".join([f"### {COHORTS[cohort].title}", "", *table(runs, BASELINES)])


def main() -> None:
    ds.settings.progress = False
    torch.set_num_threads(1)
    tables = [measure(cohort) for cohort in ("patients", "toy")]
    OUT.write_text("\n\n".join([*tables, machine().replace("Seed 0", "Seeds 0 to 2")]) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
