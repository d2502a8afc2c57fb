from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepspot._features.bags import Bags
from deepspot.errors import InputError
from deepspot.models._inputs import context_features

from .base import Baseline, fill_unknown


@dataclass(eq=False, kw_only=True)
class Regression(Baseline):
    """Base of the baselines on scikit-learn: from features of a spot to the expression of all genes."""

    _state = "regressor"
    regressor: Any = field(init=False, repr=False)

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        expression = fill_unknown(targets[rows])
        # scikit-learn needs a vector for a single gene.
        expression = expression[:, 0] if expression.shape[1] == 1 else expression
        self.regressor = self._make().fit(self._features(bags)[rows], expression)

    def _predict(self, bags: Bags) -> np.ndarray:
        return self.regressor.predict(self._features(bags)).reshape(len(bags), -1).astype(np.float32)

    def _features(self, bags: Bags) -> np.ndarray:
        """Return the features (n, d) of the regression."""
        return bags.spot.astype(np.float32)

    def _make(self) -> Any:
        """Return an unfitted regressor of scikit-learn."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class Linear(Regression):
    """Ordinary least squares on the embedding of the spot tile.

    With fewer spots than features it is the solution of least norm. Sub-spots and neighbors are not used.

    Attributes
    ----------
    regressor
        The fitted pipeline of scikit-learn.

    References
    ----------
    "Linear regression" of the DeepSpot paper.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.Linear().fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    def _features(self, bags: Bags) -> np.ndarray:
        # Features may be nearly collinear, which float32 cannot resolve.
        return bags.spot.astype(np.float64)

    def _make(self) -> Any:
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LinearRegression())


@dataclass(eq=False, kw_only=True)
class MLP(Regression):
    """Multilayer perceptron on the standardized embedding of the spot tile: ReLU, Adam, squared error.

    Parameters
    ----------
    hidden
        Width of each hidden layer; the paper also tried (1024, 1024).
    lr
        Learning rate.
    alpha
        Strength of the L2 penalty.
    max_iter
        Maximum number of epochs.
    seed
        Random seed; the same seed gives the same weights. By default from the settings.

    Attributes
    ----------
    regressor
        The fitted pipeline of scikit-learn.

    References
    ----------
    "MLP" of the DeepSpot paper. Here features are standardized, so that one learning rate suits all encoders.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.MLP(hidden=(8,), max_iter=20).fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    hidden: Sequence[int] = (512, 512)
    lr: float = 1e-3
    alpha: float = 1e-4
    max_iter: int = 200
    seed: int | None = None

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # The number of epochs is part of the definition, converged or not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            super()._fit(bags, targets, rows, slides, patients)

    def _make(self) -> Any:
        from sklearn.neural_network import MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        network = MLPRegressor(
            hidden_layer_sizes=tuple(self.hidden),
            alpha=self.alpha,
            learning_rate_init=self.lr,
            max_iter=self.max_iter,
            random_state=self._seed,
        )
        return make_pipeline(StandardScaler(), network)


@dataclass(eq=False, kw_only=True)
class RandomForest(Regression):
    """Random forest on the context features of a spot, with all genes in the same trees.

    Parameters
    ----------
    n_trees
        Number of trees.
    context
        Sets to use, as in :class:`Ridge`; the benchmark uses the spot alone.
    n_jobs
        Number of processor cores; None is one, -1 all.
    seed
        Random seed; the same seed gives the same forest. By default from the settings.

    Attributes
    ----------
    regressor
        The fitted forest of scikit-learn.

    References
    ----------
    Jaume et al., HEST-1k, 2024: 70 trees, on 50 genes. Here the caller chooses the genes.

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

    n_trees: int = 70
    context: Sequence[str] = ("spot",)
    n_jobs: int | None = None
    seed: int | None = None

    def _features(self, bags: Bags) -> np.ndarray:
        return context_features(bags, self.context)

    def _make(self) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(n_estimators=self.n_trees, random_state=self._seed, n_jobs=self.n_jobs)


@dataclass(eq=False, kw_only=True)
class PositionOnly(Regression):
    """Null model that uses the position of a spot, and no image.

    A random forest on x, y, the distance to the center of the slide's spots, all in µm, and the number of neighbors.
    A model that is not better may have learned only the outline of a section.

    Parameters
    ----------
    n_trees
        Number of trees.
    n_jobs
        Number of processor cores; None is one, -1 all.
    seed
        Random seed; the same seed gives the same forest. By default from the settings.

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

    n_trees: int = 100
    n_jobs: int | None = None
    seed: int | None = None

    def _features(self, bags: Bags) -> np.ndarray:
        if bags.position is None:
            raise InputError(
                "PositionOnly needs positions, but the bags have none. Make them with `Bags(position=...)`."
            )
        center_distance = np.linalg.norm(bags.position, axis=1)
        return np.column_stack([bags.position, center_distance, np.diff(bags.neighbors.indptr)]).astype(np.float32)

    def _make(self) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        # Leaves of several spots, because the expression of one spot is noisy.
        return RandomForestRegressor(
            n_estimators=self.n_trees, min_samples_leaf=5, random_state=self._seed, n_jobs=self.n_jobs
        )
