"""Time and memory of all systems for one fit, and of the systems on whole slides by the size of a slide.

    DEEPSPOT_DATA=../shared/data python benchmarks/systems_cost.py

The first table is the fold of benchmarks/results/systems_patients.md that leaves patient B out: the same sections,
genes and settings, with early stopping. The second is one epoch of HisToGene, Hist2ST, THItoGene and TRIPLEX on one
slide of random embeddings; a slide of more than 4,096 spots is divided. Every fit runs in a process of its own. Memory
is the highest resident memory above that before the fit (Linux). Time is a ratio to ridge in the same run. Writes
benchmarks/results/systems_cost.md.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from _sections import load
from real_sections import FEATURES, measured
from scipy.sparse import csr_matrix
from systems import MODELS, PANEL, RESULTS, machine
from systems_on_slides import GRID
from systems_on_slides import MODELS as SLIDE_MODELS

import deepspot as ds
from deepspot._features.feature_table import bags_of
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import RINGS
from deepspot.models._systems import SYSTEMS as KINDS
from deepspot.models._training.targets import TrainingSet, choose_genes, targets, training_set

SECTIONS = ["C2", "C3", "C4", "C5"]
SIZES = (1000, 2000, 4000, 8000)
PITCH_UM = 200.0
DIM, SUBSPOTS, GENES = 1312, 9, 150  # of the random slides
SYSTEMS = MODELS | SLIDE_MODELS
ON_SLIDES = [name for name in SLIDE_MODELS if name not in MODELS]


def main() -> None:
    data, genes = fold()
    found = {name: alone(name, data, genes) for name in SYSTEMS}
    unit = found["ridge"][0]
    lines = [
        f"### One fit to sections {', '.join(SECTIONS)} ({len(data.rows):,} spots, {len(genes)} genes)",
        "",
        "| system | time, in fits of ridge | memory (GB) |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {seconds / unit:.1f} | {memory:.2f} |" for name, (seconds, memory) in found.items()]
    lines += ["", f"A fit of ridge took {unit:.1f} s.", "", "### One epoch on one slide", ""]
    lines += [f"| system | {' | '.join(f'{n:,} spots' for n in SIZES)} |", "|---|" + "---|" * len(SIZES)]
    for name in ON_SLIDES:
        costs = [alone(name, random_slide(n), epochs=1) for n in SIZES]
        lines.append(f"| {name} | {' | '.join(f'{seconds:.1f} s, {memory:.2f} GB' for seconds, memory in costs)} |")
    text = "\n".join([*lines, "", machine()])
    (RESULTS / "systems_cost.md").write_text(f"{text}\n")
    print(text)


def fold() -> tuple[TrainingSet, list[str]]:
    """Return the sections as a training set, and their genes as in the benchmark of the systems."""
    slides = load(SECTIONS)
    known = [measured(name, sdata) for name, sdata in slides.items()]
    genes = choose_genes(known, PANEL["genes"], PANEL["min_detected"])
    rule = NeighborRule(reach=RINGS * PITCH_UM, cap=ds.models.TileConfig().max_neighbors)
    bags = {name: bags_of(sdata, FEATURES, "spots", rule) for name, sdata in slides.items()}
    return training_set(known, bags, targets(known, genes)[0]), genes


def random_slide(n: int) -> TrainingSet:
    """Return a square slide of n spots."""
    rng = np.random.default_rng(0)
    position = PITCH_UM * np.column_stack(np.divmod(np.arange(n), int(np.ceil(n**0.5))))
    spot, subspots = (rng.normal(size=(n, *shape)) for shape in ((DIM,), (SUBSPOTS, DIM)))
    bags = ds.models.Bags(
        spot.astype(np.float32), subspots.astype(np.float16), csr_matrix((n, n), dtype=bool), position
    )
    values = rng.normal(size=(n, GENES)).astype(np.float32)
    name = np.repeat("S1", n)
    return TrainingSet(bags, values, np.arange(n), name, name, np.full(n, 1e4))


def alone(name: str, data: TrainingSet, genes: list[str] | None = None, **options: Any) -> tuple[float, float]:
    """Return seconds and gigabytes of one fit in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, data, genes, options))


def measure(name: str, data: TrainingSet, genes: list[str] | None, options: dict[str, Any]) -> tuple[float, float]:
    """Fit a system."""
    made = SYSTEMS[name]
    factory = KINDS[made] if isinstance(made, str) else made
    settings = {key: values[0] for key, values in GRID.get(name, {}).items()} | options
    model = partial(factory, **settings)() if settings else factory()
    for package in ("torch", "sklearn.ensemble"):
        import_module(package)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = memory("VmRSS"), time.perf_counter()
    data.fit(model, **({"genes": genes} if name.startswith("deepspot") else {}))
    return time.perf_counter() - start, memory("VmHWM") - before


def memory(field: str) -> float:
    """Return the resident memory of this process in GB, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e6


if __name__ == "__main__":
    main()
