"""Systems of a comparison by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ._baselines import BLEEP, MLP, Linear, PositionOnly, RandomForest, Ridge, ShuffledImages, STNet, TrainingMean
from ._cells import CellSum, DeepCell, DeepSpot2Cell
from ._deepspot import DeepSpot
from ._whole_slide import TRIPLEX, Hist2ST, HisToGene, THItoGene

# Version of the predictions of the package's estimators. `ds.models.cross_validate(out=)` reads a finished fit if the
# package version and this number are unchanged. Between releases, raise it by one with every change of an estimator in
# `deepspot.models`, or of the choice of genes, their scale or oversampling, that changes predictions, scores or
# choices: an algorithm, a default, a preset, the use of random numbers. Do not raise it for comments, names, moved
# files or speed: users would lose days of work.
FITS = 3

# Factories of estimators from keyword parameters.
SYSTEMS: dict[str, Callable[..., Any]] = {
    "deepspot": DeepSpot,
    "deepspot_paper": partial(DeepSpot, preset="paper"),
    "deepspot_published": partial(DeepSpot, preset="published"),
    "ridge": Ridge,
    # As in the HEST benchmark, with a tuned α.
    "ridge_pca": partial(Ridge, pca=256, context=("spot",), clip=None),
    "linear": Linear,
    "random_forest": RandomForest,
    "mlp": MLP,
    "stnet": STNet,
    "stnet_finetuned": partial(STNet, fine_tune=True),
    "bleep": BLEEP,
    "histogene": HisToGene,
    "hist2st": Hist2ST,
    "thitogene": THItoGene,
    "triplex": TRIPLEX,
    "deepcell": DeepCell,
    "deepspot2cell": DeepSpot2Cell,
    "cell_sum": CellSum,
}

# Null models; a useful system is better than all of them.
NULLS: dict[str, Callable[..., Any]] = {
    "training mean": TrainingMean,
    "position only": PositionOnly,
    "shuffled images": ShuffledImages,
}
