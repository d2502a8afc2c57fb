"""The systems to compare with, under one interface: `fit(bags, targets)`, `predict(bags)`."""

from ._bleep import BLEEP
from ._linear import Linear
from ._mlp import MLP
from ._position_only import PositionOnly
from ._random_forest import RandomForest
from ._ridge import Ridge
from ._shuffled_images import ShuffledImages
from ._stnet import STNet
from ._training_mean import TrainingMean

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
