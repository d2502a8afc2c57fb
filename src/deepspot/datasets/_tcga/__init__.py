"""Predictions of the authors of the paper for TCGA."""

from .tcga import tcga

__all__ = ["tcga"]
