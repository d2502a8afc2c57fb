"""What a prediction finer than spots knows: sub-spots, grid, cells, and models of cells, on slides with known cells.

    python benchmarks/resolution.py

Toy slides of three patients with their cells (`ds.datasets.toy(cells=True)`), each patient left out in turn. Counts of
cells are pooled into spots of 55 µm, on which all models are trained; the counts of the cells of the other patient are
the truth of `ds.tl.evaluate_resolution`. Cells are those in spots. DeepSpot is the default with its gate, at most 20
epochs. CellSum and DeepSpot2Cell see the nuclei as sub-spots: tiles of 18 µm around the drawn nuclei. DeepSpot2Cell has
a quarter of its width, four members and larger steps with a higher learning rate, which is what two cores can do.
"Expected" is the expression that the counts of the cells were drawn from. Writes benchmarks/results/resolution.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from systems import RESULTS, machine

import deepspot as ds
from deepspot._core.keys import UNS

SEED, GENES, DIAMETER_UM = 0, 60, 55.0
TOY = {"n_patients": 3, "n_rows": 10, "n_cols": 12, "n_genes": GENES, "mpp": 0.5, "cells": True, "seed": SEED}
QUICK = {"max_epochs": 20}
SYSTEMS = {
    "cell_sum": {},
    "deepspot2cell": {
        "network": {"width": 128, "n_ensemble": 4},
        "training": {"spots_per_step": 32, "lr": 1e-3, "max_epochs": 20},
    },
}
MEANS = ["within_r", "within_r_low", "within_r_high", "within_p", "within_r_interpolated", "within_r_depth"]
MEANS += ["within_of_ceiling", "places_r", "places_r_spot", "places_r_interpolated"]


def main() -> None:
    ds.settings.progress = False
    slides = {name: prepared(sdata) for name, sdata in ds.datasets.toy(**TOY).items()}
    rows = [found for name in slides for found in left_out(name, slides)]
    table = pd.DataFrame(rows)
    means = table.groupby("prediction", sort=False)[MEANS].mean()
    by_program = table.groupby("prediction", sort=False)[
        ["tumor", "lymphoid", "stroma", "necrosis", "border", "noise"]
    ].mean()
    places = table.groupby("prediction", sort=False)["places"].sum()
    lines = [
        f"### Toy slides of three patients, each left out in turn: {len(slides) * 120} spots, {GENES} genes",
        "",
        "| prediction | places | r within spots (95 %) | interpolated | depth | of ceiling | r over all places | "
        "value of the spot |",
        "|" + "---|" * 8,
    ]
    for name, row in means.iterrows():
        lines.append(
            f"| {name} | {places[name]:,} | {row['within_r']:.3f} ({row['within_r_low']:.3f} to "
            f"{row['within_r_high']:.3f}) | {row['within_r_interpolated']:.3f} | {row['within_r_depth']:.3f} | "
            f"{row['within_of_ceiling']:.2f} | {row['places_r']:.3f} | {row['places_r_spot']:.3f} |"
        )
    lines += ["", f"p by swaps is at most {table['within_p'].max():.3f} everywhere."]
    lines += ["", "r within spots by gene program:", "", "| prediction | " + " | ".join(by_program) + " |"]
    lines += ["|" + "---|" * (1 + by_program.shape[1])]
    lines += [f"| {name} | {' | '.join(f'{r:.3f}' for r in row)} |" for name, row in by_program.iterrows()]
    lines += ["", "Means over three patients; intervals are means of their ends.", "", machine()]
    (RESULTS / "resolution.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def prepared(sdata: Any) -> Any:
    """Keep the cells in spots, and pool their counts into the spots."""
    ds.pp.pool(sdata, shapes_key="cells", into_key="spots", link_key="spot")
    inside = sdata["table_cells"].obs["spot"].notna().to_numpy()
    sdata.tables["table_cells"] = sdata["table_cells"][inside].copy()
    sdata.shapes["cells"] = sdata["cells"][inside]
    del sdata.tables["table"]
    return sdata


def left_out(name: str, slides: dict[str, Any]) -> list[dict[str, Any]]:
    """Train without a slide, predict it at every resolution, and compare with its cells."""
    training, slide = {key: sdata for key, sdata in slides.items() if key != name}, slides[name]
    keys = {"shapes_key": "spots", "table_key": "spots_counts"}
    genes = list(slide["table_cells"].var_names)
    model = ds.models.train(training, patient_key="patient", genes=genes, keys=keys, training=QUICK, seed=SEED)
    found = []
    for resolution, key in {
        "subspot": "deepspot_spots_subspots",
        "grid": "deepspot_spots_grid",
        "cell": "fine",
    }.items():
        options = {"shapes_key": "cells" if resolution == "cell" else "spots", "key_added": key}
        ds.tl.predict(slide, model, resolution=resolution, overwrite=True, **options)
        found.append(evaluated(slide, key, f'DeepSpot, resolution="{resolution}"'))
    for preset, options in SYSTEMS.items():
        of_cells = keys | {"nuclei_key": "cells"}
        model = ds.models.train(
            training, patient_key="patient", genes=genes, keys=of_cells, preset=preset, seed=SEED, **options
        )
        ds.tl.predict(slide, model, resolution="cell", shapes_key="cells", key_added=preset)
        found.append(evaluated(slide, preset, type(model).__name__))
    found.append(evaluated(slide, add_expected(slide), "*expected*"))
    return found


def add_expected(slide: Any) -> str:
    """Add a table with the expression that the counts of the cells were drawn from."""
    known = slide["fine"].copy()
    known.X = np.asarray(slide["table_cells"][:, known.var_names].layers["expected"], dtype=np.float32)
    slide.tables["expected"] = known
    return "expected"


def evaluated(slide: Any, key: str, name: str) -> dict[str, Any]:
    """Return the agreement within spots, its means over genes and by gene program."""
    options = {"table_key": "table_cells", "spots_key": "spots", "overwrite": True, "seed": SEED}
    ds.tl.evaluate_resolution(slide, prediction_key=key, **options)
    var, program = slide[key].var, slide["table_cells"].var["program"]
    by_program = var["within_r"].groupby(program.reindex(var.index).astype(str)).mean().to_dict()
    print(name, slide[key].uns[UNS]["within_spots"], flush=True)
    return {"prediction": name, **slide[key].uns[UNS]["within_spots"], **by_program}


if __name__ == "__main__":
    main()
