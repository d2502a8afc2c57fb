"""Nuclei as sub-spots against 3 × 3 tiles, in nested cross-validation by patient.

    python benchmarks/nuclei_subspots.py [toy] [patients]

All systems have the same spot tiles and neighbors. "Chosen" takes tiles or nuclei for each fold, by the inner folds
(toy slides only). Nuclei are those of `ds.pp.nuclei`. Images of shuffled spots are the null model of each setting. Toy
slides are those of the other benchmarks at 0.5 µm per pixel; `patients` are sections of HER2ST (`DEEPSPOT_DATA`).
Writes benchmarks/results/nuclei_subspots_*.md.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from _sections import embedded, load
from spatialdata import SpatialData
from systems import PANEL, SEED, compare_table, machine, measures_table

import deepspot as ds

RESULTS = Path(__file__).parent / "results"
TILES, NUCLEI = {"subspots": "tiles"}, {"subspots": "nuclei"}
SHUFFLED = partial(ds.models.ShuffledImages, factory=ds.models.Ridge)
NETWORK = partial(ds.models.DeepSpot, network={"members": 1}, training={"max_epochs": 20, "gate": "off"})
# Kind of model, and the settings of which the inner folds choose one.
SYSTEMS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "ridge, tiles": ("ridge", [TILES]),
    "ridge, nuclei": ("ridge", [NUCLEI]),
    "ridge, chosen": ("ridge", [TILES, NUCLEI]),
    "ridge, no sub-spots": (partial(ds.models.Ridge, context=("spot", "neighbors")), [TILES]),
    "network, tiles": (NETWORK, [TILES]),
    "network, nuclei": (NETWORK, [NUCLEI]),
    "shuffled, tiles": (SHUFFLED, [TILES]),
    "shuffled, nuclei": (SHUFFLED, [NUCLEI]),
}
COHORTS = {
    "toy": ("Six toy patients at 0.5 µm per pixel, each left out in turn", {"genes": 150, "top": (25, 50, 100, 150)}),
    "patients": ("Sections B4 and C2 to C5 of HER2ST, patients B and C each left out in turn", PANEL),
}


def slides_of(cohort: str) -> dict[str, SpatialData]:
    if cohort == "toy":
        slides = ds.datasets.toy(
            n_patients=6, n_rows=6, n_cols=8, n_genes=150, mpp=0.5, depth=1500, stain_shift=1.0, batch_effect=0.5
        )
    else:
        slides = load(["B4", "C2", "C3", "C4", "C5"])
    for name, sdata in slides.items():
        ds.pp.nuclei(sdata, within_um=150)
        embedded(f"nuclei_{cohort}_{name}", sdata, subspots="nuclei")
    return slides


def measure(cohort: str) -> list[str]:
    title, options = COHORTS[cohort]
    # One shallow section, as without patient C, is too little to choose parameters within.
    systems = {name: system for name, system in SYSTEMS.items() if cohort == "toy" or len(system[1]) == 1}
    slides = slides_of(cohort)
    number = [
        sdata[key].obs["n_nuclei"] for sdata in slides.values() for key in sdata.tables if key.startswith("nuclei_")
    ]
    mean = sum(n.mean() for n in number) / len(number)
    empty, largest = sum(int((n == 0).sum()) for n in number), max(int(n.max()) for n in number)
    cv = ds.models.cross_validate(
        slides,
        patient_key="patient",
        models={name: kind for name, (kind, _) in systems.items()},
        grid={name: {"tiles": settings} for name, (_, settings) in systems.items()},
        seed=SEED,
        out=ds.settings.cache("benchmarks", "folds"),
        **options,
    )
    total = sum(map(len, number))
    return [
        f"### {title}",
        "",
        f"{mean:.1f} nuclei per spot, at most {largest}; {empty} of {total} spots have none.",
        "",
        *compare_table(cv, "ridge, tiles"),
        "",
        *measures_table(cv),
        "",
        machine(),
    ]


def main(cohorts: list[str]) -> None:
    ds.settings.progress = False
    ds.settings.runtime = "onnx"
    for cohort in cohorts:
        text = "\n".join(measure(cohort))
        (RESULTS / f"nuclei_subspots_{cohort}.md").write_text(f"{text}\n")
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["toy"])
