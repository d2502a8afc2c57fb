import numpy as np
from sklearn.linear_model import LogisticRegression

from deepspot.tl._patients.classify import STRENGTHS, predict


def test_turning_the_axes_changes_nothing():
    rng = np.random.default_rng(0)
    X, unseen = rng.standard_normal((60, 200)) * 3 + 1, rng.standard_normal((200, 200)) * 3 + 1
    labels = np.where(X[:, :10].sum(axis=1) > 10, "a", "b")
    X = np.column_stack([X, np.ones(60)])  # one that does not vary
    unseen = np.column_stack([unseen, np.full(200, 5.0)])
    found, strength = predict(X, labels, unseen, seed=0)
    mean, scale = X[:, :200].mean(axis=0), X[:, :200].std(axis=0) * np.sqrt(200)
    plain = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit((X[:, :200] - mean) / scale, labels)
    assert strength in STRENGTHS
    assert (found == plain.predict((unseen[:, :200] - mean) / scale)).mean() > 0.99
    assert 0.5 < (found == np.where(unseen[:, :10].sum(axis=1) > 10, "a", "b")).mean() < 1
