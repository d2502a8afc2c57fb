from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import numpy as np

from deepspot._features.bags import Bags


@runtime_checkable
class Estimator(Protocol):
    """Interface of all models that :func:`deepspot.models.cross_validate` compares.

    `fit` gets the slide of every spot in `slides`; in `predict` the bags are those of one slide, with positions. If
    `fit` has a parameter `depth`, it also gets the counts (n,) of every spot over the genes that all training slides
    share, NaN for spots that were not measured. If it has a parameter `exposure`, it gets the factors (n,) from rates,
    which are `expm1` of the targets, to counts.
    """

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
    ) -> Self:
        """Fit to log-expression `targets` (n, genes) of the spots `rows`; NaN where a gene was not measured."""
        ...

    def predict(self, bags: Bags) -> np.ndarray:
        """Predict log-expression (n, genes) of the spots of one slide."""
        ...
