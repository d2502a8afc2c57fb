from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepspot._bags import Bags
from deepspot.models._features import context_features

from ._regression import Regression


class RandomForest(Regression):
    """Random forest on the context features of a spot, all genes in the same trees.

    Parameters
    ----------
    n_trees
        Number of trees.
    context
        Sets to use, as in :class:`Ridge`; the benchmark has the spot alone.
    n_jobs
        Processor cores to use; None is one, -1 all.
    seed
        Same seed, same forest.

    Attributes
    ----------
    regressor
        The fitted forest of scikit-learn.

    References
    ----------
    Jaume et al., HEST-1k, 2024: 70 trees, there on 50 genes. Here the number of genes is up to the caller.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.RandomForest(n_trees=5).fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    def __init__(
        self,
        *,
        n_trees: int = 70,
        context: Sequence[str] = ("spot",),
        n_jobs: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_trees = n_trees
        self.context = context
        self.n_jobs = n_jobs
        self.seed = seed

    def _features(self, bags: Bags) -> np.ndarray:
        return context_features(bags, self.context)

    def _learn(self, features: np.ndarray, expression: np.ndarray) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(n_estimators=self.n_trees, random_state=self.seed, n_jobs=self.n_jobs)
        return forest.fit(features, self._columns(expression))
