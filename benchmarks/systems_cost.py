"""Time and memory of all systems for one fit, and of the systems on whole slides by the size of a slide.

    python benchmarks/systems_cost.py

Every fit runs in a process of its own, on random embeddings (1,312 features with 9 sub-spots, 150 genes): time and
memory do not depend on what they contain. Settings are those of benchmarks/systems.py and systems_on_slides.py. Memory
is the highest resident memory above that before the fit, which includes the imports of a system. Time is a ratio to
ridge in the same run. The second table is one epoch of HisToGene, Hist2ST, THItoGene and TRIPLEX on one slide; a slide
of more than 4,096 spots is divided. Writes benchmarks/results/systems_cost.md.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from functools import partial
from typing import Any

import numpy as np
from systems import MODELS, RESULTS, machine
from systems_on_slides import MODELS as SLIDE_MODELS

DIM, SUBSPOTS, GENES = 1312, 9, 150
COHORT = (5, 600)  # slides, and spots of each
SIZES = (1000, 2000, 4000, 8000)
SYSTEMS = MODELS | SLIDE_MODELS
ON_SLIDES = [name for name in SLIDE_MODELS if name not in MODELS]


def main() -> None:
    found = {name: alone(name, *COHORT) for name in SYSTEMS}
    unit = found["ridge"][0]
    lines = [
        f"### One fit to {COHORT[0]} slides of {COHORT[1]} spots",
        "",
        "| system | time, in fits of ridge | memory (GB) |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {seconds / unit:.1f} | {memory:.2f} |" for name, (seconds, memory) in found.items()]
    lines += ["", f"A fit of ridge took {unit:.1f} s.", "", "### One epoch on one slide", ""]
    lines += [f"| system | {' | '.join(f'{n:,} spots' for n in SIZES)} |", "|---|" + "---|" * len(SIZES)]
    for name in ON_SLIDES:
        costs = [alone(name, 1, n, epochs=1) for n in SIZES]
        lines.append(f"| {name} | {' | '.join(f'{seconds:.1f} s, {memory:.2f} GB' for seconds, memory in costs)} |")
    text = "\n".join([*lines, "", machine()])
    (RESULTS / "systems_cost.md").write_text(f"{text}\n")
    print(text)


def alone(name: str, n_slides: int, n_spots: int, **options: Any) -> tuple[float, float]:
    """Return seconds and gigabytes of one fit in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, n_slides, n_spots, options))


def measure(name: str, n_slides: int, n_spots: int, options: dict[str, Any]) -> tuple[float, float]:
    """Fit a system to random bags."""
    from scipy.sparse import csr_matrix

    import deepspot as ds
    from deepspot.models._systems import SYSTEMS as KINDS

    rng = np.random.default_rng(0)
    side = int(np.ceil(n_spots**0.5))
    position = 100.0 * np.column_stack(np.divmod(np.arange(n_spots), side))
    n = n_slides * n_spots
    spot = rng.normal(size=(n, DIM)).astype(np.float32)
    subspots = rng.normal(size=(n, SUBSPOTS, DIM)).astype(np.float16)
    bags = ds.models.Bags(spot, subspots, csr_matrix((n, n), dtype=bool), np.tile(position, (n_slides, 1)))
    targets = rng.normal(size=(n, GENES)).clip(-2) + 3
    slides = np.repeat([f"S{i}" for i in range(n_slides)], n_spots)
    made = SYSTEMS[name]
    factory = KINDS[made] if isinstance(made, str) else made
    model = partial(factory, **options)() if options else factory()
    known: dict[str, Any] = {"slides": slides, "patients": slides}
    if name in ON_SLIDES:
        known["exposure"] = np.ones(n)
    if name.startswith("deepspot"):
        known["genes"] = [f"g{i}" for i in range(GENES)]
    before, start = resident(), time.perf_counter()
    model.fit(bags, targets, **known)
    return time.perf_counter() - start, resident() - before


def resident() -> float:
    """Return the highest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
