"""The systems of a comparison by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ._baselines import BLEEP, MLP, Linear, PositionOnly, RandomForest, Ridge, ShuffledImages, STNet, TrainingMean
from ._deepspot import DeepSpot

# Version of what our estimators make of the same input. `ds.models.cross_validate(out=)` reads a finished fit again
# only if package version and this number are those that it was made with. Raise it by one with every change, between
# releases, after which an estimator of `deepspot.models` (or what it is fitted to: the choice of genes, their scale,
# oversampling) gives other predictions, scores or choices: an algorithm, a default, a preset, the use of random
# numbers. Leave it for all else, such as comments, names, moved files and speed: users lose days of work by it.
FITS = 1

# Each makes an estimator from keyword parameters.
SYSTEMS: dict[str, Callable[..., Any]] = {
    "deepspot": DeepSpot,
    "deepspot_paper": partial(DeepSpot, preset="paper"),
    "deepspot_published": partial(DeepSpot, preset="published"),
    "ridge": Ridge,
    # As in the HEST benchmark, but for its α, which is tuned here.
    "ridge_pca": partial(Ridge, pca=256, context=("spot",)),
    "linear": Linear,
    "random_forest": RandomForest,
    "mlp": MLP,
    "stnet": STNet,
    "stnet_finetuned": partial(STNet, fine_tune=True),
    "bleep": BLEEP,
}

# What a system has to beat before it means anything.
NULLS: dict[str, Callable[..., Any]] = {
    "training mean": TrainingMean,
    "position only": PositionOnly,
    "shuffled images": ShuffledImages,
}
