"""All systems on the same folds: nested cross-validation, null models, DeepSpot in its presets and its default.

    DEEPSPOT_DATA=../shared/data python benchmarks/systems.py

Genes, scale and every parameter are chosen without the patient that is left out. `deepspot` is the default, with its
gate: network, blend or ridge; its search for epochs ends at 20. The presets are trained at batch 128, for 15 epochs at
the most and on 256 principal components of the embedding. Both are what two cores can do. ST-Net and BLEEP see the
shared, frozen encoder. Writes systems_*.md and systems_*.png
to benchmarks/results.
"""

from __future__ import annotations

import sys
from functools import partial

import matplotlib as mpl
from _cohorts import COHORTS, RESULTS, compare_table, write

import deepspot as ds

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


def main(names: list[str]) -> None:
    mpl.use("Agg")
    ds.settings.progress = False
    for name in names or COHORTS:
        # Within one patient the presets tell nothing that benchmarks/results/real_sections.md does not tell.
        models = {key: kind for key, kind in MODELS.items() if name != "within" or key not in PRESETS}
        # One shallow section is too little to choose parameters within.
        cv = COHORTS[name].cross_validate(models, grid=None if name == "patients" else GRID)
        ds.pl.benchmark(cv).figure.savefig(RESULTS / f"systems_{name}.png", dpi=110)
        write("systems", name, compare_table(cv, "ridge"))


if __name__ == "__main__":
    main(sys.argv[1:])
