from __future__ import annotations

import numpy as np

from deepspot._bags import Bags
from deepspot.models._rows import which_rows


class TrainingMean:
    """The null model: every spot is predicted to have the mean expression of the training spots.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> bags = ds.models.Bags(np.zeros((2, 3), "float32"), None, csr_matrix((2, 2), dtype=bool))
    >>> ds.models.TrainingMean().fit(bags, np.array([[0.0, 1.0], [2.0, 1.0]])).predict(bags)[0]
    array([1., 1.])
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
    ) -> TrainingMean:
        """Learn the mean of `targets` (n, genes) over `rows`; nothing else is used."""
        self.mean = np.nanmean(targets[which_rows(rows, len(bags))], axis=0)
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        """Repeat the mean for every spot: (n, genes)."""
        if self.mean is None:
            raise ValueError("TrainingMean is not fitted yet. Call `fit` first.")
        return np.tile(self.mean, (len(bags), 1))
