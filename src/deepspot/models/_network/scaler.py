from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scaler:
    """Standardization of genes by the mean and sd of the training set (section 4.2.2), and its inverse.

    Attributes
    ----------
    mean, std
        (genes,) float32; a gene that does not vary keeps its scale.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, expression: np.ndarray) -> Scaler:
        """Learn from expression (n, genes), NaN where a slide did not measure a gene."""
        known = np.isfinite(expression)
        count = np.maximum(known.sum(axis=0), 1)
        values = np.where(known, expression, 0).astype(np.float64)
        mean = values.sum(axis=0) / count
        std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
        return cls(mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32))

    def standardize(self, expression: np.ndarray) -> np.ndarray:
        """Expression to standard scores."""
        return ((expression - self.mean) / self.std).astype(np.float32)

    def restore(self, scores: np.ndarray) -> np.ndarray:
        """Standard scores to expression."""
        return scores * self.std + self.mean
