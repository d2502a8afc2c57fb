"""The systems to compare with, under one interface: `fit(bags, targets)`, `predict(bags)`."""

from ._ridge import Ridge
from ._training_mean import TrainingMean

__all__ = ["Ridge", "TrainingMean"]
