from __future__ import annotations

from typing import Any

import numpy as np

from ._regression import Regression


class Linear(Regression):
    """Ordinary least squares on the embedding of the spot tile.

    With fewer spots than features it takes the solution of least norm. Sub-spots and neighbours are not seen.

    Attributes
    ----------
    regressor
        The fitted regression of scikit-learn.

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

    def _learn(self, features: np.ndarray, expression: np.ndarray) -> Any:
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # Half of the digits would be lost on features that are nearly copies of one another.
        return make_pipeline(StandardScaler(), LinearRegression()).fit(features.astype(np.float64), expression)
