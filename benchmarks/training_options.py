"""Candidates for the default model, one change at a time, with patients left out: what was kept, and what was not.

    DEEPSPOT_DATA=../shared/data python benchmarks/training_options.py [sections toy]

Each predictor is fitted to the training slides only. The weights of a stack are fitted to out-of-fold predictions on
the training patients (with one patient on its slides, with one slide on parts of it) with the first seed, and averaged
with equal weights. Means over held-out patients and three seeds; the interval of a difference is over patients, and
exists for the toy cohort alone. A network has one member instead of three, the search for epochs ends at 20, and
predictions are projected on 10 components unless stated otherwise (`rank="select"` chooses 10, 20, 50 or none). Writes
benchmarks/results/training_options_*.md. It takes an hour and a half on one core. Fits are kept in the cache, so that
an interrupted run goes on.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from _augment import augmented
from _sections import embedded, load, load_toy
from scipy.optimize import nnls
from scipy.stats import t
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize
from systems import machine
from torch import Tensor, nn
from torch.nn import functional as F

import deepspot as ds
from deepspot import encoders
from deepspot._core.hashing import digest
from deepspot._features.bags import Bags
from deepspot._stats.ceiling import ceiling, mean_of_ceiling
from deepspot._stats.metrics import mean_r, pearson, varies
from deepspot._stats.patterns import beyond_first_axis, effective_patterns
from deepspot.models._confidence.folds import held_out, make_folds
from deepspot.models._inputs import Scaler, context_features, level_slides, slide_weights
from deepspot.models._low_rank import loadings, project
from deepspot.models._network import fit, train_members
from deepspot.models._network.fit import Recipe
from deepspot.models._network.network import Network, infer
from deepspot.models._systems import FITS
from deepspot.models._training.config import SlideKeys, TileConfig
from deepspot.models._training.plan import plan_slides
from deepspot.models._training.slides import MeasuredSlide
from deepspot.models._training.targets import TrainingSet, choose_genes, targets, training_set

SEEDS, EPOCHS, RANK = (0, 1, 2), 20, 10
STATISTICS = 32  # the last features of an embedding of the default encoder
NEAREST, COMPONENTS = 50, 64
SHRINK = 0.5
C = ["C2", "C3", "C4", "C5"]
RESULTS = Path(__file__).parent / "results"


class AttentionNetwork(Network):
    """Network whose neighbors are averaged by a learned softmax instead of their maximum."""

    def __init__(self, config: ds.models.NetworkConfig, dim: int, n_genes: int) -> None:
        super().__init__(config, dim, n_genes)
        self.score = nn.Linear(config.width, 1)

    def pool_neighbors(self, represented: Tensor, real: Tensor) -> Tensor:
        """Return the weighted mean (n, width) of φ (n, k, width) over the real (n, k) neighbors."""
        if represented.shape[1] == 0:
            return super().pool_neighbors(represented, real)
        scores = self.score(represented).squeeze(-1).masked_fill(real == 0, -1e9)
        return (F.softmax(scores, dim=1).unsqueeze(-1) * represented * real.unsqueeze(-1)).sum(1)


@dataclass(frozen=True)
class Settings:
    """How the targets are prepared, and what the network is trained on."""

    level: bool = True
    weigh: bool = True
    attention: bool = False
    augment: bool = False


BEFORE, LEVELED, KEPT = Settings(False, False), Settings(weigh=False), Settings()
ATTENTION, AUGMENTED = Settings(attention=True), Settings(augment=True)


@dataclass(frozen=True)
class Candidate:
    """A row of the table: the settings, the predictors that are averaged, and how."""

    name: str
    settings: Settings
    predictors: tuple[str, ...] = ("network", "ridge")
    rank: int | None = RANK
    stacked: bool = False


CANDIDATES = [
    Candidate("**default**: half network, half ridge", KEPT),
    Candidate("features of ridge not clipped", KEPT, ("network", "ridge, not clipped")),
    Candidate("no projection", KEPT, rank=None),
    Candidate("projection on 5 components", KEPT, rank=5),
    Candidate("slides not weighted", LEVELED),
    Candidate("slides neither weighted nor leveled", BEFORE),
    Candidate("none of these: the default before", BEFORE, ("network", "ridge, not clipped"), rank=None),
    Candidate("network alone", KEPT, ("network",)),
    Candidate("ridge alone", KEPT, ("ridge",)),
    Candidate("ridge of the tile statistics alone", KEPT, ("statistics",)),
    Candidate("nearest neighbors alone", KEPT, ("nearest",)),
    Candidate("with statistics, equal weights", KEPT, ("network", "ridge", "statistics")),
    Candidate("stack: network, ridge", KEPT, ("network", "ridge"), stacked=True),
    Candidate("stack: with statistics", KEPT, ("network", "ridge", "statistics"), stacked=True),
    Candidate("stack: with nearest neighbors", KEPT, ("network", "ridge", "nearest"), stacked=True),
    Candidate("stack: with both", KEPT, ("network", "ridge", "statistics", "nearest"), stacked=True),
    Candidate("neighbors averaged by learned attention", ATTENTION),
    Candidate("trained on augmented copies, too", AUGMENTED),
]


@dataclass(frozen=True)
class Data:
    """Arrays of a split: the training set, the held-out spots, and by slide the ceilings of the genes."""

    all: TrainingSet
    rows: np.ndarray
    held: np.ndarray
    copies: np.ndarray
    ceilings: dict[str, np.ndarray]


class Cohort:
    """Slides with augmented copies, their bags, and the splits into training and held-out slides."""

    def __init__(self, name: str) -> None:
        self.name, self.toy = name, name == "toy"
        slides = load_toy() if self.toy else load(["B4", *C])
        copies = {f"{key}_copy": embedded(f"{key}_copy", augmented(one, key)) for key, one in slides.items()}
        plan = plan_slides(slides | copies, "patient", encoders.get(None), SlideKeys(), TileConfig())
        self.bags = plan.embed(device=None, batch_size=None)
        self.measured = {slide.name: slide for slide in plan.measured}
        if self.toy:
            self.splits = [([s for s in slides if s != held], [held]) for held in slides]
        else:
            pooled = [(["B4", *(one for one in C if one != held)], [held]) for held in ("C2", "C5")]
            self.splits = [(C, ["B4"]), (["B4"], C), *pooled]

    def data(self, learned: Sequence[str], held: Sequence[str]) -> Data:
        """Genes are chosen on the training slides."""
        known: list[MeasuredSlide] = [self.measured[name] for name in learned]
        names = [*learned, *held, *(f"{name}_copy" for name in learned)]
        genes = choose_genes(known, 150 if self.toy else 200, 0.0 if self.toy else 0.3)
        genes = [gene for gene in genes if all(gene in self.measured[name].genes for name in held)]
        used = [self.measured[name] for name in names]
        everything = training_set(used, self.bags, targets(used, genes)[0])
        rows = {name: everything.rows[everything.slides[everything.rows] == name] for name in names}
        learned_rows, held_rows = (np.concatenate([rows[name] for name in part]) for part in (learned, held))
        ceilings = {
            name: ceiling(one.counts[:, one.genes.get_indexer(genes)], one.depth())
            for name in held
            for one in [self.measured[name]]
        }
        copied = np.concatenate([rows[f"{name}_copy"] for name in learned])
        return Data(everything, learned_rows, held_rows, copied, ceilings)


def predict(data: Data, settings: Settings, seed: int, rows: np.ndarray, held: np.ndarray) -> dict[str, np.ndarray]:
    """Fit all predictors to `rows`, and return their predictions of the standardized genes in the `held` rows."""
    whole = data.all
    if settings.augment:  # a copy has the targets of its slide
        learned = [f"{name}_copy" for name in np.unique(whole.slides[rows])]
        rows = np.concatenate([rows, data.copies[np.isin(whole.slides[data.copies], learned)]])
    expression = level_slides(whole.targets, rows, whole.slides) if settings.level else whole.targets
    weights = slide_weights(whole.depth if settings.weigh else None, rows, whole.slides)
    model = ds.models.DeepSpot(network={"members": 1}, training={"max_epochs": EPOCHS})
    recipe = Recipe(model.network, model.training, seed, None, None, None)
    kind = AttentionNetwork if settings.attention else Network
    with mock.patch.object(fit, "Network", kind), mock.patch.object(train_members, "Network", kind):
        members, scaler, _, _ = train_members.train_members(
            whole.bags,
            expression,
            recipe,
            rows=rows,
            validation=held_out(rows, whole.patients, seed),
            slides=whole.slides,
            weights=weights,
        )
    standard = Scaler.fit(expression[rows])
    found = {"network": standard.standardize(scaler.restore(infer(members, whole.bags, None, rows=held)))}
    groups = {"rows": rows, "slides": whole.slides, "patients": whole.patients, "weights": weights}
    part = statistics_of(whole.bags)
    for name, clip, bags in (
        ("ridge", 3.0, whole.bags),
        ("ridge, not clipped", None, whole.bags),
        ("statistics", 3.0, part),
    ):
        strengths = np.logspace(0.5, 5, 10) if name == "statistics" else np.logspace(2, 6.5, 10)
        ridge = ds.models.Ridge(clip=clip, alphas=tuple(strengths)).fit(bags, expression, **groups)
        found[name] = standard.standardize(ridge.predict(bags, rows=held))
    known = standard.standardize(expression)
    found["nearest"] = nearest(context_features(whole.bags), np.nan_to_num(known), rows, held, weights)
    directions = loadings(expression[rows], standard, 50, weights[rows])
    return found | {"directions": directions}


def statistics_of(bags: Bags) -> Bags:
    """Keep only the tile statistics of the embeddings."""
    return replace(bags, spot=bags.spot[:, -STATISTICS:], subspots=bags.subspots[..., -STATISTICS:])


def nearest(
    features: np.ndarray, known: np.ndarray, rows: np.ndarray, held: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Average the training spots with the highest cosine similarity of principal components, as BLEEP does."""
    scaler = StandardScaler().fit(features[rows])
    scaled = {name: scaler.transform(features[part]).clip(-3, 3) for name, part in (("rows", rows), ("held", held))}
    pca = PCA(min(COMPONENTS, len(rows) - 1), random_state=0).fit(scaled["rows"])
    keys, queries = (normalize(pca.transform(scaled[name])) for name in ("rows", "held"))
    found = NearestNeighbors(n_neighbors=min(NEAREST, max(5, len(rows) // 4))).fit(keys).kneighbors(queries)[1]
    parts = weights[rows][found]
    return np.einsum("nk,nkg->ng", parts / parts.sum(axis=1, keepdims=True), known[rows][found])


def stack_weights(data: Data, inner: list[tuple[np.ndarray, np.ndarray, dict]], names: Sequence[str]) -> np.ndarray:
    """Fit non-negative weights to out-of-fold predictions, and average them with equal weights."""
    left, right = [], []
    for held, units, found in inner:
        for unit in np.unique(units):
            for slide in np.unique(data.all.slides[held][units == unit]):
                part = (units == unit) & (data.all.slides[held] == slide)
                measured = data.all.targets[held][part]
                vary = varies(measured) & np.isfinite(measured).all(axis=0)
                z = StandardScaler().fit_transform(measured[:, vary]).ravel()
                centered = [(found[name][part] - found[name][part].mean(axis=0))[:, vary].ravel() for name in names]
                left.append(np.stack(centered, axis=1) / np.sqrt(len(z)))
                right.append(z / np.sqrt(len(z)))
    fitted = nnls(np.concatenate(left), np.concatenate(right))[0]
    fitted = fitted / fitted.sum() if fitted.sum() > 0 else np.full(len(names), 1 / len(names))
    return (1 - SHRINK) * fitted + SHRINK / len(names)


def kept(data: Data, settings: Settings, seed: int, rows: np.ndarray, held: np.ndarray) -> dict[str, np.ndarray]:
    """Return the predictions of an earlier run on the same arrays, or compute them; only this script writes here."""
    whole = data.all
    key = digest(FITS, str(settings), seed, EPOCHS, whole.targets, whole.bags.spot, data.copies, rows, held)
    path = ds.settings.cache("benchmarks", "training_options", f"{key}.pickle")
    if path.exists():
        return pickle.loads(path.read_bytes())
    result = predict(data, settings, seed, rows, held)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(result))
    return result


def scores(cohort: Cohort, number: int, seed: int) -> pd.DataFrame:
    """Fit all settings on a split, and return the measures of every candidate."""
    learned, held = cohort.splits[number]
    data = cohort.data(learned, held)
    used = (BEFORE, LEVELED, KEPT, ATTENTION, AUGMENTED)
    found = {settings: kept(data, settings, seed, data.rows, data.held) for settings in used}
    folds = make_folds(data.rows, data.all.slides, data.all.patients, position=data.all.bags.position)
    inner = [(test, folds.labels[test], kept(data, KEPT, SEEDS[0], train, test)) for train, test in folds.splits]
    rows = []
    for one in CANDIDATES:
        parts = found[one.settings]
        weights = np.full(len(one.predictors), 1 / len(one.predictors))
        if one.stacked:
            weights = stack_weights(data, inner, one.predictors)
        mixed = sum(weight * parts[name] for weight, name in zip(weights, one.predictors, strict=True))
        if one.rank is not None:
            mixed = project(mixed, parts["directions"][:, : one.rank])
        rows.append({"candidate": one.name, "split": number, "seed": seed, **measures(data, mixed)})
    return pd.DataFrame(rows)


def measures(data: Data, predicted: np.ndarray) -> dict[str, float]:
    """Means over held-out slides."""
    measured, slides = data.all.targets[data.held], data.all.slides[data.held]
    found = []
    for slide in np.unique(slides):
        part = slides == slide
        known = varies(measured[part])
        a, b = predicted[part][:, known], measured[part][:, known]
        found.append(
            {
                "beyond": np.nan_to_num(beyond_first_axis(a, b)).mean(),
                "of_ceiling": mean_of_ceiling(np.nan_to_num(pearson(a, b)), data.ceilings[slide][known]),
                "patterns": effective_patterns(a),
            }
        )
    return {"r": mean_r(predicted, measured, slides), **pd.DataFrame(found).mean()}


def toy_table(table: pd.DataFrame) -> list[str]:
    """Difference to the default with an interval over patients (Student's t)."""
    lines = ["| model | r | difference (95 %) | sd over seeds | r beyond the first axis | r over ceiling | patterns |"]
    lines.append("|" + "---|" * 7)
    by_patient = table.groupby(["candidate", "split"], sort=False)[["r", "beyond", "of_ceiling", "patterns"]].mean()
    default = by_patient.loc[CANDIDATES[0].name, "r"]
    for one in CANDIDATES:
        mean, gain = by_patient.loc[one.name].mean(), by_patient.loc[one.name, "r"] - default
        half = t.ppf(0.975, len(gain) - 1) * gain.std() / np.sqrt(len(gain))
        shown = f"{gain.mean():+.3f} ({gain.mean() - half:+.3f} to {gain.mean() + half:+.3f})" if gain.any() else ""
        lines.append(f"| {one.name} | {mean['r']:.3f} | {shown} | {seeds(table, one):.3f} | {rest(mean)} |")
    return lines


def sections_table(table: pd.DataFrame) -> list[str]:
    """r of each kind of split: C predicts B4, B4 predicts C, and B4 with three sections of C predict the fourth."""
    kinds = "C → B4 | B4 → C | B4, C → C2, C5"
    first = [f"| model | r: {kinds} | mean | sd over seeds |", "|" + "---|" * 6]
    second = [f"| model | r beyond the first axis: {kinds} | r over ceiling | patterns |", "|" + "---|" * 6]
    by_kind = table.groupby(["candidate", "kind"], sort=False)[["r", "beyond", "of_ceiling", "patterns"]].mean()
    for one in CANDIDATES:
        found = by_kind.loc[one.name]
        r, beyond = (" | ".join(f"{found.loc[kind, name]:.3f}" for kind in range(3)) for name in ("r", "beyond"))
        mean = found.mean()
        first.append(f"| {one.name} | {r} | {mean['r']:.3f} | {seeds(table, one):.3f} |")
        second.append(f"| {one.name} | {beyond} | {mean['of_ceiling']:.2f} | {mean['patterns']:.1f} |")
    return [*first, "", *second]


def seeds(table: pd.DataFrame, one: Candidate) -> float:
    """Return the standard deviation of r over seeds, each a mean over kinds of splits."""
    mine = table[table["candidate"] == one.name]
    return float(mine.groupby(["seed", "kind"])["r"].mean().groupby("seed").mean().std())


def rest(mean: pd.Series) -> str:
    return f"{mean['beyond']:.3f} | {mean['of_ceiling']:.2f} | {mean['patterns']:.1f}"


def main(names: list[str]) -> None:
    ds.settings.progress = False
    torch.set_num_threads(1)
    for name in names or ["sections", "toy"]:
        cohort = Cohort(name)
        found = []
        for seed in SEEDS:
            for number, (learned, held) in enumerate(cohort.splits):
                found.append(scores(cohort, number, seed))
                print(seed, learned, held, found[-1].set_index("candidate")["r"].round(3).tolist(), flush=True)
        table = pd.concat(found, ignore_index=True)
        # The splits with sections of both patients are of one kind; each patient of the toy cohort is one.
        table["kind"] = table["split"] if cohort.toy else table["split"].clip(upper=2)
        lines = (toy_table if cohort.toy else sections_table)(table)
        text = "\n".join([*lines, "", machine().replace("Seed 0", "Seeds 0 to 2"), ""])
        (RESULTS / f"training_options_{name}.md").write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
