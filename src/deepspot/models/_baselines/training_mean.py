from __future__ import annotations

from typing import Self

import numpy as np

from deepspot._features.bags import Bags
from deepspot.models._network.scaler import Scaler

from .inputs import not_fitted, rows_to_learn


class TrainingMean:
    """The null model: every spot is predicted to have the mean expression of the training spots.

    Attributes
    ----------
    mean
        (genes,) in float32; 0 for a gene that was never measured.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> bags = ds.models.Bags(np.zeros((2, 3), "float32"), None, csr_matrix((2, 2), dtype=bool))
    >>> ds.models.TrainingMean().fit(bags, np.array([[0.0, 1.0], [2.0, 1.0]])).predict(bags)[0].tolist()
    [1.0, 1.0]
    """

    def __init__(self) -> None:
        self.mean: np.ndarray | None = None

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
    ) -> Self:
        """Learn the mean of `targets` (n, genes) over `rows`; nothing else is used."""
        self.mean = Scaler.fit(targets[rows_to_learn(bags, targets, rows)]).mean
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        """Repeat the mean for every spot: (n, genes)."""
        if self.mean is None:
            raise not_fitted(self)
        return np.tile(self.mean, (len(bags), 1))
