"""A task of HEST-Benchmark: its own numbers, all systems on the same folds and embeddings, and what the protocol does.

    DEEPSPOT_DATA=../shared/data python benchmarks/hest_bench.py
    python benchmarks/hest_bench.py bench_data IDC embeddings/IDC/uni_v2 256

The first call is for the mini task of the test vectors, whose numbers are known from the benchmark's own code. The
arguments of the second are the folder with the tasks, the task, the folder with the embeddings that the benchmark
wrote, and the number of principal components. DeepSpot has three networks and at most 10 epochs, which is what two
cores can do. Writes benchmarks/results/hest_bench.md, or hest_bench_<task>.md.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _hest_protocol import PUBLISHED, Settings, errors, load, per_slide, pooled, run, to_scale
from systems import machine
from systems_on_slides import MODELS as SLIDE_MODELS

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import RINGS, find_neighbors
from deepspot._spatial.transforms import pitch_px
from deepspot._stats.metrics import pearson
from deepspot._stats.normalize import SCALES, normalize
from deepspot.models._cross_validation.data_options import DataOptions
from deepspot.models._cross_validation.factories import choose_systems
from deepspot.models._cross_validation.folds import given_folds, plan_folds
from deepspot.models._cross_validation.run import Runner
from deepspot.models._training.slides import measure

RESULTS = Path(__file__).parent / "results"
SEED = 0
ALPHAS = tuple(np.logspace(-3, 5, 17))
WITHOUT_SUBSPOTS = {"context": ("spot", "neighbors")}
SMALL = WITHOUT_SUBSPOTS | {"members": 3}
QUICK = {"max_epochs": 10, "epochs": 10}
MODELS = {
    "ridge, spot and neighbors": partial(ds.models.Ridge, **WITHOUT_SUBSPOTS),
    "ridge, spot": partial(ds.models.Ridge, context=("spot",)),
    "linear": "linear",
    "random forest": "random_forest",
    "MLP": "mlp",
    "ST-Net, frozen": "stnet",
    "BLEEP": "bleep",
    **{name: made for name, made in SLIDE_MODELS.items() if name != "ridge"},
    "deepspot": partial(ds.models.DeepSpot, network=SMALL, training=QUICK),
    "deepspot, network alone": partial(ds.models.DeepSpot, network=SMALL, training=QUICK | {"gate": "off"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folder with the tasks; by default that of the mini task")
    parser.add_argument("task", nargs="?", default="MINI")
    parser.add_argument("embeddings", nargs="?", type=Path, help="folder with the embeddings of the task")
    parser.add_argument("components", nargs="?", type=int, default=256, help="number of principal components")
    given = parser.parse_args()
    ds.settings.progress = False
    folder, name, embedded, components = given.folder, given.task, given.embeddings, given.components
    mini = folder is None
    if mini:
        vectors = Path(os.environ["DEEPSPOT_DATA"]).parent / "vectors" / "hest_bench"
        folder, embedded, components = vectors / "bench_data", vectors / "embeddings" / "MINI" / "random64", 32
    elif embedded is None:
        parser.error("name the folder with the embeddings of the task")
    task = ds.datasets.hest_bench(folder, name)
    embeddings, counts = load(task, embedded)
    theirs = replace(PUBLISHED["pca32"], pca=components)
    lines = [f"### HEST-Benchmark, task {name}: {task!r}".replace("Benchmark: ", ""), ""]
    if mini:
        lines += [*published_table(task, embeddings, counts, vectors / "expected.npz"), ""]
    lines += [*systems_table(task, embeddings, theirs, counts), "", *effects_table(task, embeddings, counts, theirs)]
    text = "\n".join([*lines, "", machine()])
    (RESULTS / ("hest_bench.md" if mini else f"hest_bench_{name}.md")).write_text(f"{text}\n")
    print(text)


def published_table(task: Any, embeddings: dict, counts: dict, file: Path) -> list[str]:
    """Compare with the numbers of the benchmark's own code."""
    expected = np.load(file)
    lines = ["| setting | theirs | reproduced | largest difference of a gene |", "|---|---|---|---|"]
    for name, settings in PUBLISHED.items():
        r = pooled(run(embeddings, to_scale(counts, settings), task.splits, settings))
        gap = np.abs(r - expected[f"{name}__per_gene_per_fold"]).max()
        lines.append(f"| {name} | {float(expected[f'{name}__pearson_mean']):.6f} | {r.mean():.6f} | {gap:.0e} |")
    return lines


def systems_table(task: Any, embeddings: dict, theirs: Settings, counts: dict) -> list[str]:
    """Run every system on the given folds, on raw counts as the benchmark does and on the usual scale."""
    lines = [
        "| system | r pooled, raw counts (theirs) | r per slide, raw counts | r pooled, per 10,000 | r per slide, per "
        "10,000 (ours) | seconds |",
        "|" + "---|" * 6,
    ]
    started = time.perf_counter()
    folds = run(embeddings, to_scale(counts, theirs), task.splits, theirs)
    first = [pooled(folds).mean(), per_slide(folds).mean()]
    normalized = {name: usual_targets(slide, task.genes) for name, slide in task.slides.items()}
    folds = run(embeddings, normalized, task.splits, theirs)
    seconds = time.perf_counter() - started
    lines.append(row("HEST ridge", [*first, pooled(folds).mean(), per_slide(folds).mean()], seconds))
    measured = [measure(name, slide, "spots", "table", patient=name, layer=None) for name, slide in task.slides.items()]
    bags = {name: bag(slide, embeddings[name]) for name, slide in task.slides.items()}
    centers = {name: bags[name].position for name in bags}
    planned = {
        scale: plan_folds(
            measured,
            centers,
            task.genes,
            tune=False,
            scale=SCALES[scale],
            given=given_folds(task.splits, list(task.slides)),
        )
        for scale in ("log1p_counts", "log1p_10k")
    }
    systems = choose_systems(MODELS, None)
    for system in systems:
        started, found = time.perf_counter(), []
        for scale, folds in planned.items():
            scores, _, _ = Runner(
                [system], bags, None, (len(task.genes),), SEED, base=DataOptions(normalize=scale)
            ).run(folds)
            # A constant prediction counts as 0, a constant measurement is left out.
            scores = scores[scores["undefined"] != "measurement"].fillna({"r": 0.0, "r_pooled": 0.0})
            by_slide = scores.groupby(["fold", "slide"], observed=True)["r"].mean().groupby("fold").mean()
            by_fold = scores.drop_duplicates(["fold", "gene"]).groupby("fold")["r_pooled"].mean()
            found += [by_fold.mean(), by_slide.mean()]
        seconds = time.perf_counter() - started
        lines.append(row(f"*{system.name}*" if system.null else system.name, found, seconds))
        print(lines[-1], flush=True)
    return lines


def row(name: str, values: list[float], seconds: float) -> str:
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} | {seconds:.1f} |"


def usual_targets(slide: Any, genes: list[str]) -> np.ndarray:
    """Return log1p of counts per 10,000 (n, genes)."""
    table = slide["table"]
    return normalize(table.X)[:, table.var_names.get_indexer(genes)].toarray().astype(np.float64)


def bag(slide: Any, embeddings: np.ndarray) -> Bags:
    """Return the bags of a slide from embeddings without sub-spots; neighbors are those of `ds.models.train`."""
    spots, mpp = slide["spots"], slide["spots"]["diameter_um"].iloc[0] / (2 * slide["spots"]["radius"].iloc[0])
    centers = np.column_stack([spots.geometry.x, spots.geometry.y]) * mpp
    neighbors = find_neighbors(centers, NeighborRule(reach=RINGS * pitch_px(centers)))
    return Bags(embeddings.astype(np.float32), None, neighbors, position=centers - centers.mean(axis=0))


def effects_table(task: Any, embeddings: dict, counts: dict, theirs: Settings) -> list[str]:
    """Change one choice of the protocol at a time."""
    raw = to_scale(counts, theirs)
    base = run(embeddings, raw, task.splits, theirs)
    lines = [
        "| change of their protocol | pooled r | difference | squared error | R² |",
        "|---|---|---|---|---|",
    ]

    def add(name: str, folds: list[dict[str, np.ndarray]], r: float | None = None) -> None:
        value, (mse, r2) = pooled(folds).mean() if r is None else r, errors(folds)
        lines.append(f"| {name} | {value:.4f} | {value - pooled(base).mean():+.4f} | {mse:.3f} | {r2:.2f} |")

    add("none", base)
    exact = replace(theirs, solver="cholesky")
    add("exact solver in place of lsqr", run(embeddings, raw, task.splits, exact))
    add("with an intercept", run(embeddings, raw, task.splits, replace(exact, fit_intercept=True)))
    for alpha in (1.0, 100.0, 10_000.0):
        changed = replace(exact, fit_intercept=True, alpha=alpha)
        add(f"with an intercept, alpha {alpha:,.0f}", run(embeddings, raw, task.splits, changed))
    nested, best = chosen_alpha(task.splits, embeddings, raw, replace(exact, fit_intercept=True))
    add("with an intercept, alpha chosen on training slides", nested)
    add("with an intercept, alpha chosen on the test fold (STP-Bench chooses checkpoints there)", best)
    normalized = {name: usual_targets(slide, task.genes) for name, slide in task.slides.items()}
    add("counts per 10,000", run(embeddings, normalized, task.splits, theirs))
    add("r per slide in place of pooled", base, float(per_slide(base).mean()))
    rng = np.random.default_rng(SEED)
    mixed = {name: values[rng.permutation(len(values))] for name, values in raw.items()}
    add("counts in another order than patches (a random one)", run(embeddings, mixed, task.splits, theirs))
    depth = {name: np.log(slide["table"].X.sum(axis=1).A1) for name, slide in task.slides.items()}
    lines += ["", "| r of the logarithm of depth alone, without an image, mean over genes and slides | |", "|---|---|"]
    for what, targets in (("log1p of raw counts", raw), ("log1p of counts per 10,000", normalized)):
        r = [np.nanmean(pearson(np.tile(depth[name][:, None], (1, y.shape[1])), y)) for name, y in targets.items()]
        lines.append(f"| {what} | {np.mean(r):.3f} |")
    constant = sum(int((np.ptp(fold["measured"], axis=0) == 0).sum()) for fold in base)
    lines += ["", f"Genes that are constant in a test fold, which would make the mean NaN: {constant}."]
    return lines


def chosen_alpha(
    splits: dict[str, list[list[str]]], embeddings: dict, targets: dict, settings: Settings
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Return the folds with alpha chosen by holding out training slides in turn, and chosen on the test fold."""
    nested, best = [], []
    for name, (train, test) in splits.items():
        inner = {held: [[other for other in train if other != held], [held]] for held in train}
        tried = [replace(settings, alpha=alpha) for alpha in ALPHAS]
        within = [np.nanmean(pooled(run(embeddings, targets, inner, each))) for each in tried]
        outer = [run(embeddings, targets, {name: [train, test]}, each)[0] for each in tried]
        nested.append(outer[int(np.argmax(within))])
        best.append(outer[int(np.argmax([np.nanmean(pooled([fold])) for fold in outer]))])
    return nested, best


if __name__ == "__main__":
    main()
