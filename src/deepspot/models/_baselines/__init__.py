"""Baselines and null models."""

from .bleep import BLEEP
from .nulls import ShuffledImages, TrainingMean
from .regression import MLP, Linear, PositionOnly, RandomForest
from .ridge import Ridge
from .stnet import STNet

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
