from __future__ import annotations

from typing import Any

import numpy as np

from deepspot._bags import Bags

from ._regression import Regression


class PositionOnly(Regression):
    """The null model that knows where a spot is, and sees no image.

    A random forest on x, y, the distance to the middle of the slide's spots, all in µm, and the number of neighbours.
    A system that does not beat it may have learnt the outline of a section only.

    Parameters
    ----------
    n_trees
        Number of trees.
    n_jobs
        Processor cores to use; None is one, -1 all.
    seed
        Same seed, same forest.

    Attributes
    ----------
    regressor
        The fitted forest of scikit-learn.

    Raises
    ------
    ValueError
        In `fit` and `predict`, if the bags have no positions.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> position = np.random.default_rng(0).normal(size=(40, 2))
    >>> bags = ds.models.Bags(np.zeros((40, 4), "float32"), None, csr_matrix((40, 40), dtype=bool), position)
    >>> ds.models.PositionOnly(n_trees=5).fit(bags, position).predict(bags).shape
    (40, 2)
    """

    def __init__(self, *, n_trees: int = 100, n_jobs: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.n_trees = n_trees
        self.n_jobs = n_jobs
        self.seed = seed

    def _features(self, bags: Bags) -> np.ndarray:
        if bags.position is None:
            raise ValueError(
                "PositionOnly needs positions, but the bags have none. Make them with `Bags(position=...)`."
            )
        middle = np.linalg.norm(bags.position, axis=1)
        return np.column_stack([bags.position, middle, np.diff(bags.neighbors.indptr)]).astype(np.float32)

    def _learn(self, features: np.ndarray, expression: np.ndarray) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        # Leaves of several spots: measured expression of one spot is noisy.
        forest = RandomForestRegressor(self.n_trees, min_samples_leaf=5, random_state=self.seed, n_jobs=self.n_jobs)
        return forest.fit(features, self._columns(expression))
