"""Figures: maps of measured and predicted genes, how a training went, and how good a model is."""

from ._alignment import alignment
from ._benchmark import benchmark
from ._reliability import reliability
from ._spatial import spatial
from ._training import training

__all__ = ["alignment", "benchmark", "reliability", "spatial", "training"]
