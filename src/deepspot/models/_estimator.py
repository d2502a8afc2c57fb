from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import numpy as np

from deepspot._features.bags import Bags


@runtime_checkable
class Estimator(Protocol):
    """The one interface of all systems: what :func:`deepspot.models.cross_validate` needs of a model.

    A system that sees whole slides finds them in `slides` when it is fitted; when it predicts, the bags are those of
    one slide, with the positions of its spots.
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
        """Learn log-expression `targets` (n, genes) from the spots `rows`; NaN where a gene was not measured."""
        ...

    def predict(self, bags: Bags) -> np.ndarray:
        """Predict log-expression (n, genes) of the spots of one slide."""
        ...
