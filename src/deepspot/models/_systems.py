"""The systems of a comparison by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ._baselines import BLEEP, MLP, Linear, PositionOnly, RandomForest, Ridge, ShuffledImages, STNet, TrainingMean
from ._deepspot import DeepSpot

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
