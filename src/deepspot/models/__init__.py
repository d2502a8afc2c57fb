"""Models on embeddings, and their bundles."""

from deepspot._bags import Bags

from ._card import ModelCard
from ._config import NetworkConfig, TrainingConfig
from ._deepspot import DeepSpot
from ._estimator import Estimator
from ._gate import Gate
from ._legacy import convert_legacy
from ._registry import available, load
from ._reliability import Reliability
from .baselines import (
    BLEEP,
    MLP,
    Linear,
    PositionOnly,
    RandomForest,
    Ridge,
    ShuffledImages,
    STNet,
    TrainingMean,
)

__all__ = [
    "BLEEP",
    "MLP",
    "Bags",
    "DeepSpot",
    "Estimator",
    "Gate",
    "Linear",
    "ModelCard",
    "NetworkConfig",
    "PositionOnly",
    "RandomForest",
    "Reliability",
    "Ridge",
    "STNet",
    "ShuffledImages",
    "TrainingConfig",
    "TrainingMean",
    "available",
    "convert_legacy",
    "load",
]
