"""The systems to compare with, and their null models."""

from .bleep import BLEEP
from .regression import MLP, Linear, PositionOnly, RandomForest
from .ridge import Ridge
from .shuffled_images import ShuffledImages
from .stnet import STNet
from .training_mean import TrainingMean

__all__ = [
    "BLEEP",
    "MLP",
    "Linear",
    "PositionOnly",
    "RandomForest",
    "Ridge",
    "STNet",
    "ShuffledImages",
    "TrainingMean",
]
