"""What might make the default model better, one change at a time, on patients that were not learnt from.

    DEEPSPOT_DATA=../shared/data python benchmarks/candidates.py

Every row is the default network (one member unless said, no blend with ridge) with one change. Toy cohort: six
patients with strong shifts of stain and batch, left out in turn. Sections: patients B (one shallow section) and C
(four), left out in turn; and the sections of C left out in turn, which only checks that the code learns. Area under the
curve of r over the top genes. Differences are paired by fold, with a 95 % bootstrap over folds where there are more
than two. The search for epochs ends at 20. Writes benchmarks/results/candidates_*.md.
"""

from __future__ import annotations

import sys
from functools import partial

from _candidates import Columns, CountLikelihood, RidgeAndResidual, SmoothNeighbors
from _cohorts import COHORTS, compare_table, write

import deepspot as ds

ALONE = {"gate": "off", "max_epochs": 20}
ONE = {"members": 1}
# The default embedding is Lite0, then the tile statistics.
LITE0 = 1280


def variant(network: dict | None = None, training: dict | None = None, kind=ds.models.DeepSpot, **more) -> partial:
    return partial(kind, network=ONE | (network or {}), training=ALONE | (training or {}), **more)


MODELS = {
    "default, one member": variant(),
    "tuned ridge": ds.models.Ridge,
    "three members": variant({"members": 3}),
    "residual over ridge": variant(kind=RidgeAndResidual),
    "spot only": variant({"context": ("spot",)}),
    "spot + sub-spots": variant({"context": ("spot", "subspots")}),
    "spot + neighbours": variant({"context": ("spot", "neighbors")}),
    "neighbours averaged by distance, beside the maximum": variant(kind=SmoothNeighbors),
    "Lite0 alone": variant(kind=Columns, last=LITE0),
    "tile statistics alone": variant(kind=Columns, first=LITE0),
    "128 components": variant(training={"pca": 128}),
    "width 256": variant({"width": 256}),
    "width 1024": variant({"width": 1024}),
    "dropout 0.6": variant({"dropout": 0.6}),
    "genes not standardised": variant(training={"standardize": False}),
    "loss: Poisson": variant(training={"loss": "poisson"}),
    "likelihood of the counts: Poisson": variant(kind=CountLikelihood),
    "likelihood of the counts: negative binomial": variant(kind=CountLikelihood, dispersion=0.3),
    "loss: Pearson": variant(training={"loss": "pearson"}),
    "loss: MSE + cosine": variant(training={"loss": "mse_cosine"}),
}


def main(names: list[str]) -> None:
    ds.settings.progress = False
    for name in names or COHORTS:
        cv = COHORTS[name].cross_validate(MODELS)
        write("candidates", name, compare_table(cv, "default, one member"))


if __name__ == "__main__":
    main(sys.argv[1:])
