"""Models on embeddings, and their bundles."""

from deepspot._bags import Bags

from ._deepspot import DeepSpot
from ._registry import available, load
from .baselines import Ridge, TrainingMean

__all__ = ["Bags", "DeepSpot", "Ridge", "TrainingMean", "available", "load"]
