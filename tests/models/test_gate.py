import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspot.models._folds import make_folds
from deepspot.models._gate import interval, judge

N, GENES, PATIENTS = 180, 12, 6


@pytest.fixture(scope="module")
def cohort():
    """Measured genes of six patients, a good and a middling prediction of them."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(N, GENES))
    good, middling = (measured + noise * rng.normal(size=(N, GENES)) for noise in (0.7, 1.5))
    patients = np.repeat(np.arange(PATIENTS), N // PATIENTS)
    return measured, good, middling, patients, make_folds(np.arange(N), patients, patients)


def decide(network, ridge, cohort, binding=True):
    measured, _, _, patients, folds = cohort
    return judge(network, ridge, measured, folds=folds, slides=patients, binding=binding)


def test_a_network_that_wins_everywhere_keeps_its_say(cohort):
    _, good, middling, *_ = cohort
    gate, weights = decide(good, middling, cohort)
    assert gate.verdict in ("network", "blend")
    assert gate.weight >= 0.75
    assert gate.low > 0
    assert gate.n == PATIENTS
    assert gate.r_used >= gate.r_network - 0.01
    assert set(weights) <= {0.5, 0.75, 1.0}


def test_a_network_that_loses_everywhere_yields_to_ridge(cohort):
    measured, good, *_ = cohort
    junk = np.random.default_rng(1).normal(size=measured.shape)
    gate, weights = decide(junk, good, cohort)
    assert gate.verdict == "ridge"
    assert gate.weight == 0
    assert gate.high < 0
    assert not weights.any()
    assert gate.r_used == pytest.approx(gate.r_ridge)
    assert "ridge predicts" in str(gate)


def test_two_that_err_independently_are_blended(cohort):
    measured, good, *_ = cohort
    other = measured + 0.7 * np.random.default_rng(2).normal(size=measured.shape)
    gate, _ = decide(other, good, cohort)
    assert gate.verdict == "blend"
    assert 0 < gate.weight < 1
    assert gate.blend_low > 0
    assert "a blend predicts" in str(gate)


def test_a_gain_of_chance_is_no_gain(cohort):
    """Two predictions of the same quality whose errors are the same but for a little noise."""
    _, good, *_ = cohort
    verdicts = []
    for seed in range(20):
        noise = 0.2 * np.random.default_rng(seed).normal(size=(2, *good.shape))
        gate, _ = decide(good + noise[0] - 0.3 * good.mean(), good, cohort)
        verdicts.append(gate.verdict)
    assert verdicts.count("ridge") >= 18


def test_a_preset_that_reproduces_others_is_not_blended(cohort):
    measured, good, *_ = cohort
    junk = np.random.default_rng(1).normal(size=measured.shape)
    gate, weights = decide(junk, good, cohort, binding=False)
    assert gate.verdict == "ridge"
    assert gate.weight == 1
    assert (weights == 1).all()
    assert gate.r_used == pytest.approx(gate.r_network)
    assert "as its preset says" in str(gate)


def test_shifts_between_slides_are_no_skill(cohort):
    """A prediction that knows nothing but the slide's level has r 0, although r pooled over slides is near 1."""
    measured, good, _, patients, folds = cohort
    shifted = measured + 100 * patients[:, None]
    level = np.repeat(100 * patients[:, None], GENES, axis=1).astype(float)
    gate, _ = judge(level, good, shifted, folds=folds, slides=patients, binding=True)
    assert gate.r_network == 0


def test_what_a_blend_gains_is_measured_with_a_share_chosen_elsewhere(cohort):
    measured, _, middling, patients, folds = cohort
    # On patient 0 the network is perfect, elsewhere it is noise: a share chosen with patient 0 would flatter it there.
    network = np.random.default_rng(3).normal(size=measured.shape)
    network[patients == 0] = measured[patients == 0]
    _, weights = judge(network, middling, measured, folds=folds, slides=patients, binding=True)
    gate, _ = judge(network, middling, measured, folds=folds, slides=patients, binding=True)
    assert weights[patients == 0].max() <= 0.25
    assert gate.verdict == "ridge"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_an_interval_holds_its_mean_and_shifts_with_its_values(values):
    values = np.array(values)
    mean, low, high = interval(values)
    assert low <= mean <= high
    np.testing.assert_allclose(interval(values + 1), np.array([mean, low, high]) + 1, atol=1e-9)


def test_an_interval_over_units_covers_nine_times_of_ten():
    rng = np.random.default_rng(0)
    inside = [low <= 0 <= high for _, low, high in (interval(rng.normal(size=3)) for _ in range(1000))]
    assert 0.87 < np.mean(inside) < 0.93


def test_a_blend_always_holds_some_ridge(cohort):
    """The network gains on every patient, but so unevenly that the bound of its gain is below 0."""
    measured, _, middling, patients, folds = cohort
    network = middling.copy()
    network[patients == 0] = measured[patients == 0]
    rest = patients > 0
    network[rest] = middling[rest] + 0.02 * (measured[rest] - middling[rest])
    gate, _ = judge(network, middling, measured, folds=folds, slides=patients, binding=True)
    assert gate.low < 0 < gate.gain
    assert gate.verdict == "blend"
    assert gate.weight < 1
