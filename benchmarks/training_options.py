"""Options of the training of the default model: slides leveled, and predictions projected on few components.

    DEEPSPOT_DATA=../shared/data python benchmarks/training_options.py [patients within toy]

Sections or patients are held out. Mean over genes of Pearson r within a held-out slide, the same beyond the first axis
of the measured genes, the effective number of patterns of the prediction, and the root mean squared error: means over
held-out slides and three seeds. The standard deviation of r is over seeds; there is no interval over patients, because
there are two. The search for epochs ends at 20, which is what two cores can do. Writes
benchmarks/results/training_options_*.md. The toy cohort takes hours and has not been run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from _sections import load, load_toy
from systems import machine

import deepspot as ds
from deepspot import encoders
from deepspot._stats.metrics import mean_r, rmse, varies
from deepspot._stats.patterns import beyond_first_axis, effective_patterns
from deepspot.models._training.config import SlideKeys, TileConfig
from deepspot.models._training.plan import plan_slides
from deepspot.models._training.targets import TrainingSet, choose_genes, targets, training_set

NEITHER = {"level_slides": False, "rank": None}
OPTIONS = {
    "neither": NEITHER,
    "slides leveled": NEITHER | {"level_slides": True},
    "rank selected": NEITHER | {"rank": "select"},
    "slides leveled, rank selected": {"level_slides": True, "rank": "select"},
    "slides leveled, rank 5": {"level_slides": True, "rank": 5},
}
SEEDS, EPOCHS = (0, 1, 2), 20
C = ["C2", "C3", "C4", "C5"]
# Training and held-out slides.
SPLITS = {
    "patients": [(C, ["B4"]), (["B4"], C)],
    "within": [(["C2", "C3", "C4"], ["C5"]), (["B4", "C2", "C3", "C4"], ["C5"])],
}
RESULTS = Path(__file__).parent / "results"


def main(names: list[str]) -> None:
    ds.settings.progress = False
    for name in names or ["patients", "within", "toy"]:
        slides = load_toy() if name == "toy" else load(["B4", *C])
        splits = SPLITS.get(name) or [([s for s in slides if s != held], [held]) for held in slides]
        lines = []
        for learned, held in splits:
            data, genes = prepare(slides, learned)
            lines += [
                f"### {', '.join(learned)} predict {', '.join(held)}: {genes} genes",
                "",
                *table(data, learned, held),
                "",
            ]
            print("\n".join(lines[-9:]), flush=True)
        (RESULTS / f"training_options_{name}.md").write_text(
            "\n".join([*lines, machine().replace("Seed 0", "Seeds 0 to 2"), ""])
        )


def prepare(slides: dict, learned: list[str]) -> tuple[TrainingSet, int]:
    """Embeddings and targets of all slides, for up to 200 genes that are chosen on the training slides."""
    plan = plan_slides(slides, "patient", encoders.get(None), SlideKeys(), TileConfig())
    genes = choose_genes([slide for slide in plan.measured if slide.name in learned], 200, 0.3)
    expression, _ = targets(plan.measured, genes)
    return training_set(plan.measured, plan.embed(device=None, batch_size=None), expression), len(genes)


def table(data: TrainingSet, learned: list[str], held: list[str]) -> list[str]:
    rows = data.rows[np.isin(data.slides[data.rows], learned)]
    tested = data.rows[np.isin(data.slides[data.rows], held)]
    lines = ["| options | r | sd over seeds | r beyond the first axis | patterns | error | ranks |", "|" + "---|" * 7]
    for name, options in OPTIONS.items():
        found = []
        for seed in SEEDS:
            model = ds.models.DeepSpot(training={"max_epochs": EPOCHS, **options}, seed=seed)
            model.fit(data.bags, data.targets, rows=rows, slides=data.slides, patients=data.patients)
            scores = measures(model.predict(data.bags, rows=tested), data.targets[tested], data.slides[tested])
            found.append({**scores, "rank": model.card.gate.rank or "all"})
        mean = pd.DataFrame(found)
        r, beyond, patterns, error = mean[["r", "beyond", "patterns", "error"]].mean()
        ranks = ", ".join(map(str, mean["rank"]))
        lines.append(
            f"| {name} | {r:.3f} | {mean['r'].std():.3f} | {beyond:.3f} | {patterns:.1f} | {error:.3f} | {ranks} |"
        )
    return lines


def measures(predicted: np.ndarray, measured: np.ndarray, slides: np.ndarray) -> dict[str, float]:
    beyond, patterns = [], []
    for slide in np.unique(slides):
        part = slides == slide
        known = varies(measured[part])
        a, b = predicted[part][:, known], measured[part][:, known]
        patterns.append(effective_patterns(a))
        beyond.append(np.nan_to_num(beyond_first_axis(a, b)).mean())
    return {
        "r": mean_r(predicted, measured, slides),
        "beyond": np.mean(beyond),
        "patterns": np.mean(patterns),
        "error": np.nanmean(rmse(np.maximum(predicted, 0), measured)),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
