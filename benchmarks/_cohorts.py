"""The cohorts of the accuracy benchmarks, and how their results are written down."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _sections import load, load_toy

import deepspot as ds

SEED = 0
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("deepspot", "torch", "scikit-learn", "scanpy", "spatialdata")


@dataclass(frozen=True)
class Cohort:
    """Slides, and how they are held out."""

    title: str
    slides: Callable[[], dict]
    options: dict[str, Any] = field(default_factory=dict)

    def cross_validate(self, models: Any, slides: dict | None = None, **more: Any) -> ds.tl.CrossValidation:
        out = ds.settings.cache("benchmarks", "folds")
        slides = self.slides() if slides is None else slides
        return ds.tl.cross_validate(
            slides, patient_key="patient", models=models, out=out, seed=SEED, **self.options, **more
        )


# The genes that a shallow section measures at all: variable among those found in 30 % of the spots of training slides.
PANEL = {"genes": 200, "min_detected": 0.3, "top": (50, 100, 150, 200)}
COHORTS = {
    "toy": Cohort(
        "Toy cohort: six patients, each left out in turn", load_toy, {"genes": 150, "top": (25, 50, 100, 150)}
    ),
    "patients": Cohort(
        "Sections of patients B and C, each patient left out in turn (two folds)",
        lambda: load(["B4", "C2", "C3", "C4", "C5"]), PANEL,
    ),
    "within": Cohort(
        "Sections of patient C, each section left out in turn: a check that the code learns",
        lambda: load(["C2", "C3", "C4", "C5"]), PANEL | {"leave_out": "slide"},
    ),
}  # fmt: skip


def write(benchmark: str, cohort: str, lines: list[str]) -> None:
    """Keep the result of one benchmark on one cohort, under a title and with what it was made with."""
    text = "\n".join([f"### {COHORTS[cohort].title}", "", *lines, "", machine()])
    (RESULTS / f"{benchmark}_{cohort}.md").write_text(f"{text}\n")
    print(text, flush=True)


def compare_table(cv: ds.tl.CrossValidation, baseline: str) -> list[str]:
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


def machine() -> str:
    """What it was measured with."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"Seed {SEED}; {platform.machine()}, Python {platform.python_version()}, {versions}."
