import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from deepspot.tl._patients.cox import STRENGTHS, _path, _standard, fit


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 4)) * [1, 5, 0.2, 1] + [0, 3, 1, 0]
    time = np.ceil(3 * rng.exponential(np.exp(-(X[:, 0] - 0.2 * X[:, 1]))))  # whole months: many die at once
    died = rng.random(120) < 0.7
    return X, time, died


def test_weights_are_those_of_lifelines_at_a_tiny_penalty(patients):
    X, time, died = patients
    mean, scale = _standard(X)
    (weights,) = _path((X - mean) / scale, time, died, [1e-5], 0.5, tol=1e-9)
    known = CoxPHFitter().fit(pd.DataFrame((X - mean) / scale).assign(time=time, died=died), "time", "died")
    assert len(np.unique(time[died])) < died.sum() / 2
    np.testing.assert_allclose(weights, known.params_, atol=1e-3)


def test_strongest_penalty_leaves_nothing_and_a_weaker_one_does(patients):
    X, time, died = patients
    mean, scale = _standard(X)
    nothing, something = _path((X - mean) / scale, time, died, [1.001, 0.9], 0.5, tol=1e-6)
    assert not nothing.any()
    assert something.any()


def test_risk_is_on_the_scale_of_the_profiles(patients):
    X, time, died = patients
    fitted = fit(X, time, died, l1_ratio=0.5, seed=0)
    assert fitted.strength in STRENGTHS
    assert fitted.risk(X).mean() == pytest.approx(0, abs=1e-9)
    moved = fit(10 * X + 3, time, died, l1_ratio=0.5, seed=0)
    np.testing.assert_allclose(moved.risk(10 * X + 3), fitted.risk(X), atol=1e-6)
    assert np.corrcoef(fitted.risk(X), X[:, 0] - 0.2 * X[:, 1])[0, 1] > 0.9


def test_genes_that_do_not_vary(patients):
    _, time, died = patients
    fitted = fit(np.ones((120, 3)), time, died, l1_ratio=0.5, seed=0)
    assert not fitted.weights.any()
