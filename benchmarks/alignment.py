"""Whether the registration doctor finds planted defects in real sections, and leaves correct ones alone.

    DEEPSPOT_DATA=../shared/data python benchmarks/alignment.py

A model of C2-C4 predicts C5 (the same patient) and B4 (another one). A defect moves counts to the spot at the wrong
place; counts whose place does not exist are dropped. It is found if the repair takes the middle spot to within 0.75 of
the distance between spots of where it was. Chance: counts shuffled among spots, and the counts of sections of the other
patient laid over this one in eight ways (real tissue that does not belong here; these tests are not independent). One
section is also embedded again with its coordinates mirrored in the image. Writes benchmarks/results/alignment.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _sections import load
from anndata import AnnData
from geopandas import points_from_xy
from scipy.spatial import cKDTree
from spatialdata import SpatialData, deepcopy

import deepspot as ds
from deepspot._spatial.transforms import pitch_px, place_spots
from deepspot.tl._alignment.align import N_CHANCE, Alignment
from deepspot.tl._alignment.moves import AS_IS, SYMMETRIES

TRAINING, TESTS, SEED = ["C2", "C3", "C4"], ["C5", "B4"], 0
OPTIONS = {"patient_key": "patient", "genes": 200, "min_detected": 0.3, "network": {"members": 1}, "seed": SEED}
PREDICTED, N_SHUFFLED = "deepspot_spots", 30
SHUFFLED, FOREIGN = "counts shuffled among spots", "counts of the other patient"
STRAIGHT = [(n * sign, 0) for n in (1, 2, 3) for sign in (1, -1)]
SHIFTS = [*STRAIGHT, *[(y, x) for x, y in STRAIGHT], (1, 1), (2, -2), (-3, 2), (-1, -3)]
COMBINED = [(1, 0), (0, 2), (1, -1), (1, 1), (-1, 2), (0, -1), (2, 0)]
VERDICTS = ("aligned", "misaligned", "partly misaligned", "undecided")
OUT = Path(__file__).parent / "results" / "alignment.md"


@dataclass
class Case:
    section: str
    kind: str
    defect: str
    result: Alignment
    found: bool


def main() -> None:
    ds.settings.progress = False
    slides = load([*TRAINING, *TESTS])
    model = ds.models.train({name: slides[name] for name in TRAINING}, **OPTIONS)
    cases, chance = [], []
    for name in TESTS:
        ds.tl.predict(slides[name], model)
        cases += [plant(name, slides[name], *defect) for defect in defects()]
        others = {other: sdata for other, sdata in slides.items() if other[0] != name[0]}
        chance += [(name, *verdicts) for verdicts in nulls(name, slides[name], others)]
        print(name, "done", flush=True)
    cases.append(mirrored_in_the_image(slides["C5"], model))
    OUT.write_text("\n".join([*summary(cases), "", *chance_table(chance), "", *details(cases)]) + "\n")


def defects() -> list[tuple[str, str, tuple[int, int]]]:
    turned = [name for name in SYMMETRIES if name != AS_IS]
    return [
        ("none", AS_IS, (0, 0)),
        *[("symmetry", name, (0, 0)) for name in turned],
        *[(f"shift by {max(map(abs, shift))}", AS_IS, shift) for shift in SHIFTS],
        *[("symmetry and shift", name, shift) for name, shift in zip(turned, COMBINED, strict=True)],
    ]


def plant(name: str, sdata: SpatialData, kind: str, symmetry: str, shift: tuple[int, int]) -> Case:
    um, pitch = centers_um(name, sdata)
    tree = cKDTree(um)
    middle = um[tree.query((um.min(axis=0) + um.max(axis=0)) / 2)[1]]
    there = (um - middle) @ SYMMETRIES[symmetry].T + middle + np.array(shift) * pitch
    distance, target = tree.query(there)
    source = np.argsort(distance)  # where two counts go to one spot, the nearer stays
    source = source[distance[source] < 0.5 * pitch]
    _, first = np.unique(target[source], return_index=True)
    source = source[first]
    result = ds.tl.check_alignment(with_counts(sdata, source, target[source]), prediction_key=PREDICTED, seed=SEED)
    repaired = um[target[source]] @ result.matrix[:2, :2].T + result.matrix[:2, 2]
    off = np.median(np.linalg.norm(repaired - um[source], axis=1))
    return Case(name, kind, f"{symmetry}, {shift[0]:+d} right, {shift[1]:+d} down", result, off < 0.75 * pitch)


def with_counts(
    sdata: SpatialData, source: np.ndarray, target: np.ndarray, counts: AnnData | None = None
) -> SpatialData:
    """The section with the counts of spots `source` (of another table, if given) at spots `target`."""
    table = sdata.tables["table"]
    moved = table[target].copy() if counts is None else AnnData(counts.X[source], table.obs.iloc[target], counts.var)
    moved.X = (table if counts is None else counts).X[source]
    moved.uns["spatialdata_attrs"] = dict(table.uns["spatialdata_attrs"])
    return SpatialData(
        images=dict(sdata.images),
        shapes=dict(sdata.shapes),
        tables={"table": moved, PREDICTED: sdata.tables[PREDICTED]},
    )


def nulls(name: str, sdata: SpatialData, others: dict[str, SpatialData]) -> list[tuple[str, Alignment]]:
    um, pitch = centers_um(name, sdata)
    rows, found = np.arange(len(um)), []
    for seed in range(N_SHUFFLED):
        shuffled = with_counts(sdata, np.random.default_rng(seed).permutation(rows), rows)
        found.append((SHUFFLED, ds.tl.check_alignment(shuffled, prediction_key=PREDICTED, seed=SEED)))
    for other, foreign in others.items():
        theirs, _ = centers_um(other, foreign)
        for linear in SYMMETRIES.values():
            there = (theirs - theirs.mean(axis=0)) @ linear.T + um.mean(axis=0)
            distance, source = cKDTree(there).query(um)
            near = np.flatnonzero(distance < pitch)
            exchanged = with_counts(sdata, source[near], near, foreign.tables["table"])
            found.append((FOREIGN, ds.tl.check_alignment(exchanged, prediction_key=PREDICTED, seed=SEED)))
    return found


def mirrored_in_the_image(sdata: SpatialData, model: ds.models.DeepSpot) -> Case:
    truth, pitch = centers_um("C5", sdata)
    wrong = deepcopy(sdata)
    shapes = wrong.shapes["spots"]
    shapes["geometry"] = points_from_xy(sdata.images["C5_image"].shape[2] - shapes.geometry.x, shapes.geometry.y)
    result = ds.tl.check_alignment(wrong, model, seed=SEED)
    repaired = centers_um("C5", wrong)[0] @ result.matrix[:2, :2].T + result.matrix[:2, 2]
    off = np.median(np.linalg.norm(repaired - truth, axis=1))
    return Case("C5", "coordinates mirrored in the image", "x → width − x, embedded again", result, off < 0.75 * pitch)


def place_of(name: str, sdata: SpatialData):
    return place_spots(sdata, f"{name}_image", "spots")


def centers_um(name: str, sdata: SpatialData) -> tuple[np.ndarray, float]:
    placement = place_of(name, sdata)
    um = placement.centers * placement.mpp
    return um, pitch_px(um)


def summary(cases: list[Case]) -> list[str]:
    lines = [
        "Defects planted in real sections, judged by a model of C2-C4 (200 genes, one member). The number of tests in "
        f"brackets; chance from {N_CHANCE} fields of each kind.",
        "",
        f"| section | planted | right move is best | {' | '.join(VERDICTS)} |",
        "|" + "---|" * 7,
    ]
    for section, kind in dict.fromkeys((case.section, case.kind) for case in cases):
        ours = [case for case in cases if (case.section, case.kind) == (section, kind)]
        said = [case.result.verdict for case in ours]
        counts = [said.count(verdict) for verdict in VERDICTS]
        found = sum(case.found for case in ours)
        lines.append(f"| {section} | {kind} ({len(ours)}) | {found} | " + " | ".join(map(str, counts)) + " |")
    return lines


def chance_table(chance: list[tuple[str, str, Alignment]]) -> list[str]:
    lines = [
        "No relation between counts and image: everything but undecided is wrong.",
        "",
        f"| section | counts | {' | '.join(VERDICTS)} |",
        "|" + "---|" * 6,
    ]
    for section, kind in dict.fromkeys((section, kind) for section, kind, _ in chance):
        said = [result.verdict for *which, result in chance if which == [section, kind]]
        counts = [said.count(verdict) for verdict in VERDICTS]
        lines.append("| " + " | ".join([section, f"{kind} ({len(said)})", *map(str, counts)]) + " |")
    return lines


def details(cases: list[Case]) -> list[str]:
    lines = [
        "| section | planted | verdict | right move | repair | r as they are | r best | gain ≥ | p best | p as is |",
        "|---" * 10 + "|",
    ]
    for case in cases:
        a = case.result
        cells = [
            case.section,
            case.defect,
            a.verdict,
            "yes" if case.found else "no",
            a.move,
            f"{a.r_as_is:.3f}",
            f"{a.r:.3f}",
            f"{a.gain_low:.3f}",
            f"{a.p_best:.2f}",
            f"{a.p_as_is:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
