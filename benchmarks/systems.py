"""All systems on the same folds: nested cross-validation, null models, DeepSpot in its presets and its default.

    DEEPSPOT_DATA=../shared/data python benchmarks/systems.py

Genes, scale and every parameter are chosen without the patient that is left out. `deepspot` is the default, with its
gate: network, blend or ridge; its search for epochs ends at 20. The presets are trained at batch 128, for 15 epochs at
the most and on 256 principal components of the embedding. Both are what two cores can do. ST-Net and BLEEP see the
shared, frozen encoder. The second table of each cohort is `CrossValidation.measures`. Writes
benchmarks/results/systems_*.md and systems_*.png.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from _sections import load, load_toy

import deepspot as ds

SEED = 0
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("deepspot", "torch", "scikit-learn", "scanpy", "spatialdata")

SMALL_DATA = {"batch_size": 128, "epochs": 15, "max_epochs": 15, "pca": 256}
QUICK = {"max_epochs": 20}
MODELS = {
    "deepspot": partial(ds.models.DeepSpot, training=QUICK),
    "deepspot, network alone": partial(ds.models.DeepSpot, training=QUICK | {"gate": "off"}),
    "deepspot, paper": partial(ds.models.DeepSpot, preset="paper", training=SMALL_DATA),
    "deepspot, published": partial(ds.models.DeepSpot, preset="published", training=SMALL_DATA),
    "ridge": "ridge",
    "ridge, spot only, PCA": "ridge_pca",
    "linear": "linear",
    "random forest": "random_forest",
    "MLP": "mlp",
    "ST-Net, frozen": "stnet",
    "BLEEP": "bleep",
}
# Only cheap choices: three inner folds for each of them take long on two cores.
GRID = {"ridge, spot only, PCA": {"pca": [32, 64, 128, 256]}}
PRESETS = ("deepspot, paper", "deepspot, published")


@dataclass(frozen=True)
class Cohort:
    """Slides, and how they are held out."""

    title: str
    slides: Callable[[], dict]
    options: dict[str, Any] = field(default_factory=dict)

    def cross_validate(self, models: dict[str, Any], grid: dict | None) -> ds.models.CrossValidation:
        out = ds.settings.cache("benchmarks", "folds")
        return ds.models.cross_validate(
            self.slides(), patient_key="patient", models=models, grid=grid, out=out, seed=SEED, **self.options
        )


# The genes that a shallow section measures at all: variable among those found in 30 % of the spots of training slides.
PANEL = {"genes": 200, "min_detected": 0.3, "top": (50, 100, 150, 200)}
COHORTS = {
    "toy": Cohort(
        "Toy cohort: six patients, each left out in turn", load_toy, {"genes": 150, "top": (25, 50, 100, 150)}
    ),
    "patients": Cohort(
        "Sections of patients B and C, each patient left out in turn (two folds)",
        lambda: load(["B4", "C2", "C3", "C4", "C5"]),
        PANEL,
    ),
    "within": Cohort(
        "Sections of patient C, each section left out in turn: a check that the code learns",
        lambda: load(["C2", "C3", "C4", "C5"]),
        PANEL | {"leave_out": "slide"},
    ),
}


def main(names: list[str]) -> None:
    mpl.use("Agg")
    ds.settings.progress = False
    for name in names or COHORTS:
        # Within one patient the presets tell nothing that benchmarks/results/real_sections.md does not tell.
        models = {key: kind for key, kind in MODELS.items() if name != "within" or key not in PRESETS}
        # One shallow section is too little to choose parameters within.
        cv = COHORTS[name].cross_validate(models, grid=None if name == "patients" else GRID)
        ds.pl.benchmark(cv).figure.savefig(RESULTS / f"systems_{name}.png", dpi=110)
        write(name, [*compare_table(cv, "ridge"), "", *measures_table(cv)])


def write(cohort: str, lines: list[str]) -> None:
    """Keep the result on one cohort, under a title and with what it was made with."""
    text = "\n".join([f"### {COHORTS[cohort].title}", "", *lines, "", machine()])
    (RESULTS / f"systems_{cohort}.md").write_text(f"{text}\n")
    print(text, flush=True)


def compare_table(cv: ds.models.CrossValidation, baseline: str) -> list[str]:
    """Area, difference to a baseline by fold, and what the bootstrap says of it."""
    summary, gains = cv.summary(), cv.compare(baseline)
    curves = cv.curve()
    folds = list(dict.fromkeys(curves["fold"]))
    lines = [
        f"| model | mean r | {' | '.join(f'{fold} left out' for fold in folds)} | difference to {baseline} (95 %) | "
        "adjusted p | undefined |",
        "|" + "---|" * (5 + len(folds)),
    ]
    areas = cv.areas()
    for model, row in summary.iterrows():
        gain, p = "", ""
        if model in gains.index:
            found = gains.loc[model]
            gain = f"{found['difference']:+.3f}"
            if len(folds) > 2:
                gain += f" ({found['low']:+.3f} to {found['high']:+.3f})"
                p = f"{found['p_adjusted']:.2f}"
        name = f"*{model}*" if row["null"] else model
        each = " | ".join(f"{areas.loc[model, fold]:.3f}" for fold in folds)
        lines.append(f"| {name} | {row['mean']:.3f} | {each} | {gain} | {p} | {row['undefined_prediction']:,} |")
    return lines


def measures_table(cv: ds.models.CrossValidation) -> list[str]:
    """What r alone does not show: means over patients, with 95 % intervals from three patients on."""
    found = cv.measures()
    lines = [
        "| model | r | r beyond the first axis | r over ceiling | gene-gene agreement | patterns predicted | "
        "measured |",
        "|" + "---|" * 7,
    ]
    for model, row in found.iterrows():
        cells = [f"*{model}*" if model in ("training mean", "position only", "shuffled images") else model]
        for name, digits in (("r", 3), ("r_beyond_axis", 3), ("r_of_ceiling", 2), ("gene_agreement", 2)):
            cells.append(f"{row[name]:.{digits}f}")
            if cv.scores["fold"].nunique() > 2 and np.isfinite(row[name]):
                cells[-1] += f" ({row[f'{name}_low']:.{digits}f} to {row[f'{name}_high']:.{digits}f})"
        cells += [f"{row['patterns_predicted']:.1f}", f"{row['patterns_measured']:.1f}"]
        lines.append(f"| {' | '.join(cells).replace('nan', '')} |")
    return lines


def machine() -> str:
    """What it was measured with."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"Seed {SEED}; {platform.machine()}, Python {platform.python_version()}, {versions}."


if __name__ == "__main__":
    main(sys.argv[1:])
