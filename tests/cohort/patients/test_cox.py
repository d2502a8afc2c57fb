import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index

from deepspot.cohort._patients.survival import STRENGTHS, concordance, fit_cox, fit_path


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 4)) * [1, 5, 0.2, 1] + [0, 3, 1, 0]
    time = np.ceil(3 * rng.exponential(np.exp(-(X[:, 0] - 0.2 * X[:, 1]))))  # whole months, for ties
    event = rng.random(120) < 0.7
    return X, time, event


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lifelines uses deprecated functions of Python and pandas
def test_weights_match_lifelines_at_a_tiny_penalty(patients):
    X, time, event = patients
    ((mean, scale, weights, _),) = fit_path(X, time, event, [1e-5], 0.5, tol=1e-9)
    known = CoxPHFitter().fit(pd.DataFrame((X - mean) / scale).assign(time=time, event=event), "time", "event")
    assert len(np.unique(time[event])) < event.sum() / 2
    np.testing.assert_allclose(weights, known.params_, atol=1e-3)


def test_strongest_penalty_sets_all_weights_to_zero(patients):
    X, time, event = patients
    nothing, something = fit_path(X, time, event, [1.001, 0.9], 0.5, tol=1e-6)
    assert not nothing.weights.any()
    assert something.weights.any()


def test_risk_is_on_the_scale_of_the_profiles(patients):
    X, time, event = patients
    fitted = fit_cox(X, time, event, l1_ratio=0.5, seed=0)
    assert fitted.strength in STRENGTHS
    assert fitted.risk(X).mean() == pytest.approx(0, abs=1e-9)
    moved = fit_cox(10 * X + 3, time, event, l1_ratio=0.5, seed=0)
    np.testing.assert_allclose(moved.risk(10 * X + 3), fitted.risk(X), atol=1e-6)
    assert np.corrcoef(fitted.risk(X), X[:, 0] - 0.2 * X[:, 1])[0, 1] > 0.9


def test_genes_that_do_not_vary(patients):
    _, time, event = patients
    fitted = fit_cox(np.ones((120, 3)), time, event, l1_ratio=0.5, seed=0)
    assert not fitted.weights.any()


@pytest.mark.parametrize("seed", range(20))
def test_concordance_matches_lifelines(seed):
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 8, size=40).astype(float)  # many ties
    event = rng.random(40) < 0.5
    risk = rng.integers(0, 5, size=40).astype(float)
    assert concordance(time, event, risk) == pytest.approx(concordance_index(time, -risk, event))


def test_known_answers():
    time, event = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    assert concordance(time, event, np.array([3.0, 2.0, 1.0])) == 1
    assert concordance(time, event, np.array([1.0, 2.0, 3.0])) == 0
    assert concordance(time, event, np.zeros(3)) == 0.5
    # The first is censored before any event: only the two others are a pair.
    assert concordance(time, np.array([False, True, False]), np.array([0.0, 1.0, 0.0])) == 1
    # Two events at the same time are no pair; an event and a censored patient are.
    assert np.isnan(concordance(np.ones(2), np.ones(2, bool), np.arange(2.0)))
    assert concordance(np.ones(2), np.array([True, False]), np.array([1.0, 0.0])) == 1


def test_concordance_without_events():
    assert np.isnan(concordance(np.arange(4.0), np.zeros(4, bool), np.arange(4.0)))
