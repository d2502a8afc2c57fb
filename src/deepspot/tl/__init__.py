"""Tools: train and predict."""

from ._predict import predict
from ._train import train

__all__ = ["predict", "train"]
