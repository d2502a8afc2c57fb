from __future__ import annotations

from typing import Any, Self

import numpy as np

from deepspot._bags import Bags

from ._inputs import fill_unknown, not_fitted, rows_to_learn


class Regression:
    """What the baselines on scikit-learn share: features of a spot go in, and expression of all genes comes out."""

    def __init__(self) -> None:
        self.regressor: Any = None

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
    ) -> Self:
        """Fit to measured expression.

        Parameters
        ----------
        bags
            Embeddings of n spots.
        targets
            (n, genes) log-expression; where a slide did not measure a gene (NaN) the mean stands in.
        rows
            Spots to learn from, maybe several times; by default all.
        slides, patients
            Not used.
        """
        rows = rows_to_learn(bags, targets, rows)
        self.regressor = self._learn(self._features(bags)[rows], fill_unknown(targets[rows]))
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        """Predict log-expression (n, genes)."""
        if self.regressor is None:
            raise not_fitted(self)
        return self.regressor.predict(self._features(bags)).reshape(len(bags), -1).astype(np.float32)

    def _features(self, bags: Bags) -> np.ndarray:
        """Features (n, d) that the regression sees."""
        return bags.spot.astype(np.float32)

    def _learn(self, features: np.ndarray, expression: np.ndarray) -> Any:
        """Return a fitted regressor of scikit-learn."""
        raise NotImplementedError

    @staticmethod
    def _columns(expression: np.ndarray) -> np.ndarray:
        # scikit-learn wants a vector, not a column, where there is one gene.
        return expression[:, 0] if expression.shape[1] == 1 else expression
