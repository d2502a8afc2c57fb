"""Figures: maps of measured and predicted genes, and how a training went."""

from ._spatial import spatial
from ._training import training

__all__ = ["spatial", "training"]
