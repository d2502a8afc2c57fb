"""Learned weights of neighbors against their maximum, in nested cross-validation by patient.

    DEEPSPOT_DATA=../shared/data python benchmarks/neighbor_weights.py

The network of the default alone, without its gate, on the folds, genes and frozen embeddings of `systems.py`. To keep
the cost low it has one member, a width of 128, and 128 principal components of the embeddings; the search for epochs
ends at 20. Only the pooling of the neighbors differs: their maximum, their mean, a softmax of their agreement with the
spot (attention), or a softmax of a function of their distance. First the default sets, with the neighbors within 1.5
times the distance between spots; on the hexagonal array of the toy slides all of these have the same distance. Then a
network of spots and neighbors without sub-spots, with neighbors within 2.5 times the distance between spots. The last
table is a positive control: synthetic embeddings whose targets depend on the near or the similar neighbors. Means over
the seeds. Fits are kept in the cache, so that an interrupted run goes on. Writes
benchmarks/results/neighbor_weights.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from scipy.spatial.distance import pdist, squareform
from spatialdata import SpatialData
from systems import COHORTS, QUICK, machine
from torch import Tensor, nn
from torch.nn import functional as F

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._stats.metrics import pearson
from deepspot.datasets._toy.tissue import hex_array
from deepspot.models._cross_validation.statistics import N_BOOTSTRAP, compare, draws
from deepspot.models._network import fit, train_members
from deepspot.models._network.network import ROWS, BagDataset, Network

SEEDS = (0,)
OUT = Path(__file__).parent / "results" / "neighbor_weights.md"
WIDTH, PCA = 128, 128
HEADS, KEY, HIDDEN = 4, 32, 16
# The network is trained for so few steps that a function with few parameters would hardly change without this factor.
STEEPER = 10.0
# Distance between spots in µm. 2.5 times this distance reaches 18 neighbors of a spot in a hexagonal array, 20 in a
# square one.
PITCH_UM = {"toy": 100.0, "patients": 200.0}
WIDER, MOST = 2.5, 20


class Distances(BagDataset):
    """Batches with the ``distance`` (n, k) of the neighbors in 100 µm."""

    def __init__(self, bags: Bags, *args: Any) -> None:
        super().__init__(bags, *args)
        position = torch.as_tensor(bags.position, dtype=torch.float32)
        self.distance = (position[self.neighbors.clamp(min=0)] - position.unsqueeze(1)).norm(dim=-1) / 100

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        return super().__getitems__(rows) | {"distance": self.distance[rows]}


class Weighted(Network):
    """Network whose neighbors are averaged with weights (n, k, heads); each head weights a part of φ."""

    def weights(self, spot: Tensor, near: Tensor, real: Tensor, distance: Tensor) -> Tensor:
        """Return the logarithms of the weights; here all are equal, so this is the mean."""
        return torch.zeros_like(real).unsqueeze(-1)

    def pool(self, tiles: Tensor, batch: dict[str, Tensor], n_subspots: int | None = None) -> Tensor:
        """Return the concatenated pooled sets; without neighbors their part is 0."""
        spot, near, real = F.embedding(batch["spot"], tiles), F.embedding(batch["neighbors"], tiles), batch["real"]
        logits = self.weights(spot, near, real, batch["distance"])
        share = logits.masked_fill(real.unsqueeze(-1) == 0, -1e9).softmax(dim=1) * real.unsqueeze(-1)
        pooled = torch.einsum("nkh,nkhd->nhd", share, near.unflatten(-1, (share.shape[-1], -1))).flatten(1)
        subspots = [self.pool_subspots(self.represent(batch["subspots"]))] if "subspots" in self.config.context else []
        return torch.cat([spot, *subspots, pooled], dim=1)


class Attention(Weighted):
    """The weight of a neighbor is the agreement of its keys with the queries of the spot, both linear in φ."""

    def __init__(self, config: ds.models.NetworkConfig, dim: int, n_genes: int) -> None:
        super().__init__(config, dim, n_genes)
        self.query, self.key = (nn.Linear(config.width, HEADS * KEY) for _ in range(2))

    def weights(self, spot: Tensor, near: Tensor, real: Tensor, distance: Tensor) -> Tensor:
        query, key = (part.unflatten(-1, (HEADS, KEY)) for part in (self.query(spot), self.key(near)))
        return torch.einsum("nhd,nkhd->nkh", query, key) / KEY**0.5


class ByDistance(Weighted):
    """The weight of a neighbor is a function of its distance, a network with one hidden layer."""

    def __init__(self, config: ds.models.NetworkConfig, dim: int, n_genes: int) -> None:
        super().__init__(config, dim, n_genes)
        self.function = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HEADS))
        nn.init.zeros_(self.function[-1].weight)  # starts at the mean

    def weights(self, spot: Tensor, near: Tensor, real: Tensor, distance: Tensor) -> Tensor:
        return STEEPER * self.function(distance.unsqueeze(-1))


class OneNetwork(ds.models.DeepSpot):
    """A small network of the default, one member and no gate, with another pooling of the neighbors.

    With `kind` = Network it predicts the same as :class:`deepspot.models.DeepSpot` with the same settings.
    """

    def __init__(
        self, kind: type[Network], context: tuple[str, ...], *, seed: int | None = None, device: str | None = None
    ) -> None:
        network = {"members": 1, "width": WIDTH, "context": context}
        super().__init__(network=network, training=QUICK | {"gate": "off", "pca": PCA}, seed=seed, device=device)
        self.kind = kind

    def fit(self, bags: Bags, targets: np.ndarray, *, depth: np.ndarray | None = None, **groups: Any) -> OneNetwork:
        with (
            mock.patch.object(fit, "Network", self.kind),
            mock.patch.object(train_members, "Network", self.kind),
            mock.patch.object(train_members, "BagDataset", Distances),
        ):
            super().fit(bags, targets, depth=depth, **groups)
        return self

    @torch.inference_mode()
    def predict(self, bags: Bags) -> np.ndarray:
        data, (member,) = Distances(bags, self.network.context), self.members
        parts = np.array_split(np.arange(len(bags)), -(-len(bags) // ROWS))
        return self.scaler.restore(torch.cat([member(data.__getitems__(part.tolist())) for part in parts]).numpy())


POOLINGS = {"maximum": Network, "mean": Weighted, "attention": Attention, "function of distance": ByDistance}
DEFAULT, WIDE = "default", "without sub-spots, wider"
BASELINES = {set_: f"{set_}: maximum" for set_ in (DEFAULT, WIDE)}
CONTEXTS = {DEFAULT: ("spot", "subspots", "neighbors"), WIDE: ("spot", "neighbors")}


def systems(cohort: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the models, and the tiles of those with a wider radius."""
    models: dict[str, Any] = {}
    grid: dict[str, Any] = {}
    for part, context in CONTEXTS.items():
        models[f"{part}: no neighbors"] = partial(OneNetwork, Network, context[:-1])
        for name, kind in POOLINGS.items():
            models[f"{part}: {name}"] = partial(OneNetwork, kind, context)
            if part == WIDE:
                tiles = {"radius_um": WIDER * PITCH_UM[cohort], "max_neighbors": MOST}
                grid[f"{part}: {name}"] = {"tiles": [tiles]}
    return models, grid


def run(cohort: str, slides: dict[str, SpatialData], seed: int) -> ds.models.CrossValidation:
    models, grid = systems(cohort)
    return ds.models.cross_validate(
        slides,
        patient_key="patient",
        models=models,
        grid=grid,
        out=ds.settings.cache("benchmarks", "folds"),
        seed=seed,
        **COHORTS[cohort].options,
    )


def table(runs: list[ds.models.CrossValidation], baselines: dict[str, str]) -> list[str]:
    """Means over seeds by fold, and the paired difference to the baseline of the same name up to the colon."""
    areas = pd.concat([cv.areas() for cv in runs], keys=range(len(runs)), names=["seed"])
    values = areas.groupby("model", sort=False).mean()
    beyond = pd.concat([cv.measures()["r_beyond_axis"] for cv in runs]).groupby(level=0).mean()
    null = runs[0].scores.drop_duplicates("model").set_index("model")["null"].loc[values.index].to_numpy()
    several = values.shape[1] > 2
    samples = draws(values.shape[1], N_BOOTSTRAP, SEEDS[0])
    gains = {base: compare(values, null, base, samples) for base in baselines.values()}
    lines = [
        f"| model | mean r | {' | '.join(f'{fold} left out' for fold in values)} | difference to the maximum"
        f"{' (95 %)' if several else ''} | by seed | r beyond the first axis |",
        "|" + "---|" * (5 + values.shape[1]),
    ]
    for (model, row), is_null in zip(values.iterrows(), null, strict=True):
        base, gain, each_seed = baselines.get(str(model).partition(":")[0]), "", ""
        if not is_null and model != base:
            found = gains[base].loc[model]
            gain = f"{found['difference']:+.4f}"
            if several:
                gain += f" ({found['low']:+.4f} to {found['high']:+.4f})"
            difference = areas.xs(model, level="model") - areas.xs(base, level="model")
            each_seed = ", ".join(f"{value:+.4f}" for value in difference.mean(axis=1))
        each = " | ".join(f"{r:.3f}" for r in row)
        name = f"*{model}*" if is_null else model
        lines.append(f"| {name} | {row.mean():.3f} | {each} | {gain} | {each_seed} | {beyond[model]:.3f} |")
    return lines


def control() -> list[str]:
    """Score all poolings on synthetic embeddings, six slides for training and three for testing.

    One half of the genes are means over the six nearest neighbors, the other half over the neighbors with the sign of
    the spot in the first component.
    """
    rng, side, dim = np.random.default_rng(SEEDS[0]), 16, 8
    center = hex_array(side, side)[2]
    distance = squareform(pdist(center))
    bags, targets = [], []
    for _ in range(9):
        spot = rng.normal(size=(len(center), dim)).astype(np.float32)
        spot[:, 0] = np.sign(spot[:, 0])
        near = (distance > 0) & (distance < WIDER * 100)
        parts = (near & (distance < 110), near & (spot[:, :1] == spot[:, 0]))
        means = [(part / part.sum(1, keepdims=True).clip(1)) @ spot[:, 1:] for part in parts]
        bags.append(Bags(spot, None, csr_matrix(near), position=center))
        targets.append(np.hstack([mean / mean.std() for mean in means]))
    slides = np.repeat(np.arange(9), len(center))
    learned, held = np.flatnonzero(slides < 6), slides >= 6
    everything, measured = Bags.concat(bags), np.vstack(targets).astype(np.float32)
    lines = ["| pooling | r of means over the nearest | r of means over the similar |", "|---|---|---|"]
    for name, kind in POOLINGS.items():
        model = OneNetwork(kind, CONTEXTS[WIDE], seed=SEEDS[0])
        model.fit(everything, measured, rows=learned, slides=slides, patients=slides)
        r = pearson(model.predict(everything)[held], measured[held])
        lines.append(f"| {name} | {r[: dim - 1].mean():.3f} | {r[dim - 1 :].mean():.3f} |")
    return lines


def main() -> None:
    ds.settings.progress = False
    torch.set_num_threads(1)
    slides = {name: COHORTS[name].slides() for name in PITCH_UM}
    text, runs = ["### Positive control: synthetic embeddings", "", *control()], {name: [] for name in PITCH_UM}
    for seed in SEEDS:
        for name, cohort in slides.items():
            runs[name].append(run(name, cohort, seed))
            print(seed, runs[name][-1].areas().round(4), sep="\n", flush=True)
        used = machine().replace("Seed 0", f"Seeds {', '.join(map(str, SEEDS[: seed + 1]))}")
        tables = [
            "\n".join([f"### {COHORTS[name].title}", "", *table(found, BASELINES), "", ""])
            for name, found in runs.items()
        ]
        OUT.write_text("\n".join([*tables, *text, "", used, ""]))
    print(OUT.read_text())


if __name__ == "__main__":
    main()
