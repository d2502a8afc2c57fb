"""Models on embeddings, and their bundles."""

from deepspot._bags import Bags

from ._card import ModelCard
from ._config import NetworkConfig, TrainingConfig
from ._deepspot import DeepSpot
from ._registry import available, load
from .baselines import Ridge, TrainingMean

__all__ = [
    "Bags",
    "DeepSpot",
    "ModelCard",
    "NetworkConfig",
    "Ridge",
    "TrainingConfig",
    "TrainingMean",
    "available",
    "load",
]
