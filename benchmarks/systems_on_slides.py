"""The published systems on whole slides, on the folds of benchmarks/systems.py, beside tuned ridge and null models.

    DEEPSPOT_DATA=../shared/data python benchmarks/systems_on_slides.py

All learn from the shared, frozen embeddings. HisToGene, Hist2ST and THItoGene have an eighth of their published width
and two layers, TRIPLEX a quarter of its width: that is what two cores can do. The learning rate is 0.001, a hundred
times that of the published trainings (ten times for TRIPLEX), which have more slides and epochs; no parameter is
chosen. Writes benchmarks/results/systems_on_slides_*.md.
"""

from __future__ import annotations

import sys
from functools import partial

from systems import COHORTS, RESULTS, compare_table, machine, measures_table

import deepspot as ds

ON_SLIDES = {"lr": 3e-4, "epochs": 40}
MODELS = {
    "ridge": "ridge",
    "HisToGene": partial(ds.models.HisToGene, dim=128, layers=2, heads=2, **ON_SLIDES),
    "Hist2ST": partial(ds.models.Hist2ST, dim=128, layers=2, heads=2, **ON_SLIDES),
    "THItoGene": partial(
        ds.models.THItoGene, capsules=6, route=16, layers=2, heads=2, hidden=256, graph_dim=(32, 64, 128), **ON_SLIDES
    ),
    "TRIPLEX": partial(ds.models.TRIPLEX, dim=128, layers=(1, 2, 1), heads=(4, 4, 4), lr=3e-4, epochs=20),
}
GRID = {name: {"lr": [1e-3]} for name in MODELS if name != "ridge"}


def main(names: list[str]) -> None:
    ds.settings.progress = False
    for name in names or ("toy", "patients"):
        cv = COHORTS[name].cross_validate(MODELS, grid=GRID)
        lines = [f"### {COHORTS[name].title}", "", *compare_table(cv, "ridge"), "", *measures_table(cv), "", machine()]
        text = "\n".join(lines)
        (RESULTS / f"systems_on_slides_{name}.md").write_text(f"{text}\n")
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
