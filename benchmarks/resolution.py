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
from deepspot._core.keys import PREDICTION, SCALE, UNS
from deepspot._features.feature_table import bags_of
from deepspot._sdata.write import make_table
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import RINGS
from deepspot.models._training.slides import measure
from deepspot.models._training.targets import TrainingSet, targets, training_set

SEED, GENES, DIAMETER_UM, NUCLEUS_UM = 0, 60, 55.0, 55 / 3
TOY = {"n_patients": 3, "n_rows": 10, "n_cols": 12, "n_genes": GENES, "mpp": 0.5, "cells": True, "seed": SEED}
QUICK = {"max_epochs": 20}
SMALL = {"width": 128, "n_ensemble": 4, "spots_per_step": 32, "lr": 1e-3, "max_epochs": 20}
RULE = NeighborRule(reach=RINGS * 100)
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
    """Keep the cells in spots, pool their counts into the spots, and embed spots and nuclei."""
    ds.pp.pool(sdata, shapes_key="cells", into_key="spots", link_key="spot")
    inside = sdata["table_cells"].obs["spot"].notna().to_numpy()
    sdata.tables["table_cells"] = sdata["table_cells"][inside].copy()
    sdata.shapes["cells"] = sdata["cells"][inside]
    del sdata.tables["table"]
    ds.pp.embed(sdata, shapes_key="spots")
    ds.pp.embed(sdata, shapes_key="cells", tile_um=NUCLEUS_UM, subspots=False, key_added="nuclei")
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
    data = set_of(training, genes)
    for system in (ds.models.CellSum(seed=SEED), ds.models.DeepSpot2Cell(**SMALL, seed=SEED)):
        data.fit(system)
        kind = type(system).__name__
        found.append(evaluated(slide, add(slide, of_cells(system, slide), kind), kind))
    found.append(evaluated(slide, add(slide, slide["table_cells"].layers["expected"], "expected"), "*expected*"))
    return found


def bag(slide: Any) -> ds.models.Bags:
    """Return the bags of the spots, with their nuclei as sub-spots."""
    spots, nuclei, cells = bags_of(slide, "lite0_stats_spots", "spots", RULE), slide["nuclei"], slide["table_cells"]
    parent = slide["spots"].index.get_indexer(cells.obs["spot"].astype(slide["spots"].index.dtype))
    place = number_within(parent)
    subspots = np.zeros((len(spots), place.max() + 1, spots.dim), dtype=np.float16)
    present = np.zeros(subspots.shape[:2], dtype=bool)
    subspots[parent, place], present[parent, place] = nuclei.X, True
    return ds.models.Bags(spots.spot, subspots, spots.neighbors, spots.position, present=present)


def number_within(parent: np.ndarray) -> np.ndarray:
    """Return the number of each cell (n,) within its spot."""
    return pd.Series(parent).groupby(parent).cumcount().to_numpy()


def set_of(slides: dict[str, Any], genes: list[str]) -> TrainingSet:
    """Return the slides as a training set."""
    known = [measure(name, sdata, "spots", "spots_counts", patient=name, layer=None) for name, sdata in slides.items()]
    return training_set(known, {name: bag(sdata) for name, sdata in slides.items()}, targets(known, genes)[0])


def of_cells(system: Any, slide: Any) -> np.ndarray:
    """Return the log-expression of each cell that a model of cells predicts."""
    found = system.predict_cells(bag(slide))
    if isinstance(found, tuple):  # rates that add up to the spot: per 10,000 of the cell itself, for comparison
        rates = found[0]
        found = np.log1p(1e4 * rates / np.nansum(rates, axis=-1, keepdims=True))
    cells = slide["table_cells"]
    parent = slide["spots"].index.get_indexer(cells.obs["spot"].astype(slide["spots"].index.dtype))
    return np.asarray(found[parent, number_within(parent)])


def add(slide: Any, X: np.ndarray, key: str) -> str:
    """Add a table of predicted cells."""
    known = slide["nuclei"]
    made = {"kind": PREDICTION, "scale": SCALE, "image_key": known.uns[UNS]["image_key"], "resolution": "cell"}
    slide.tables[key] = make_table(
        np.asarray(X, dtype=np.float32),
        region="cells",
        instances=slide["cells"].index,
        region_key="region",
        instance_key="cell",
        var=slide["table_cells"].var[[]].copy(),
        obsm={"spatial": known.obsm["spatial"]},
        uns={UNS: made},
    )
    return key


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
