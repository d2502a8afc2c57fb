from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._regression import Regression


class MLP(Regression):
    """Multilayer perceptron on the standardised embedding of the spot tile: ReLU, Adam, squared error.

    Parameters
    ----------
    hidden
        Width of each hidden layer; the paper also tried (1024, 1024).
    lr
        Learning rate.
    alpha
        Strength of the L2 penalty.
    max_iter
        At most so many passes over the data.
    seed
        Same seed, same weights.

    Attributes
    ----------
    regressor
        The fitted pipeline of scikit-learn.

    References
    ----------
    "MLP" of the DeepSpot paper. Here features are standardised, so that one learning rate fits all encoders.

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

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (512, 512),
        lr: float = 1e-3,
        alpha: float = 1e-4,
        max_iter: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.lr = lr
        self.alpha = alpha
        self.max_iter = max_iter
        self.seed = seed

    def _learn(self, features: np.ndarray, expression: np.ndarray) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        network = MLPRegressor(
            hidden_layer_sizes=tuple(self.hidden),
            solver="adam",
            activation="relu",
            alpha=self.alpha,
            learning_rate_init=self.lr,
            max_iter=self.max_iter,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            # The number of passes is part of the definition, converged or not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return make_pipeline(StandardScaler(), network).fit(features, self._columns(expression))
