"""Logistic regression with an L2 penalty; its strength comes from the training patients alone."""

from __future__ import annotations

import numpy as np

from ._resampling import FOLDS

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths `C` to choose from, for profiles whose mean squared length is 1."""


def predict(X: np.ndarray, labels: np.ndarray, unseen: np.ndarray, *, seed: int) -> tuple[np.ndarray, float]:
    """Fit to training patients and predict others.

    The strength is the one with the smallest log loss on folds of the training patients.

    Parameters
    ----------
    X, labels
        (n, genes) and (n,) of the training patients.
    unseen
        (m, genes) of the others.
    seed
        Of the folds.

    Returns
    -------
    Labels (m,), and `C`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    spread = X.std(axis=0)
    varies = spread > 1e-12
    Z, unseen = ((part[:, varies] - X[:, varies].mean(axis=0)) / spread[varies] for part in (X, unseen))
    # A penalty on the length of the weights does not care how the axes are turned: n patients need n of them, not one
    # for every gene, and the result is the same.
    left, sizes, axes = np.linalg.svd(Z, full_matrices=False)
    length = max(np.sqrt((sizes**2).sum() / len(Z)), 1e-12)
    search = GridSearchCV(
        LogisticRegression(max_iter=2000), {"C": STRENGTHS}, scoring="neg_log_loss",
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
    ).fit(left * sizes / length, labels)  # fmt: skip
    return search.predict(unseen @ axes.T / length), float(search.best_params_["C"])
