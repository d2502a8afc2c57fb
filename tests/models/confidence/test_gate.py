import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspot.models._confidence.folds import make_folds
from deepspot.models._confidence.gate import interval, judge

N, GENES, PATIENTS = 180, 12, 6


@pytest.fixture(scope="module")
def cohort():
    """Measured genes of six patients, a good and a middling prediction of them."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(N, GENES))
    good, middling = (measured + noise * rng.normal(size=(N, GENES)) for noise in (0.7, 1.5))
    patients = np.repeat(np.arange(PATIENTS), N // PATIENTS)
    return measured, good, middling, patients, make_folds(np.arange(N), patients, patients)


@pytest.fixture(scope="module")
def junk():
    return np.random.default_rng(1).normal(size=(N, GENES))


def decide(network, ridge, cohort, applied=True):
    measured, _, _, patients, folds = cohort
    return judge(network, ridge, measured, folds=folds, slides=patients, applied=applied)


def test_a_network_that_is_always_better_predicts_alone(cohort, junk):
    _, good, *_ = cohort
    gate = decide(good, junk, cohort)
    assert gate.verdict == "network"
    assert gate.weight == 1
    assert gate.low > 0
    assert gate.n == PATIENTS
    assert gate.r_used == gate.r_network
    assert "the network predicts" in str(gate)


def test_ridge_predicts_if_the_network_is_always_worse(cohort, junk):
    _, good, *_ = cohort
    gate = decide(junk, good, cohort)
    assert gate.verdict == "ridge"
    assert gate.weight == 0
    assert gate.high < 0
    assert gate.r_used == pytest.approx(gate.r_ridge)
    # The loss of the blend is reported.
    assert f"blend over tuned ridge {gate.blend_gain:+.3f}" in str(gate)
    assert "ridge predicts" in str(gate)


def test_predictions_with_independent_errors_are_blended(cohort):
    measured, good, *_ = cohort
    other = measured + 0.7 * np.random.default_rng(2).normal(size=measured.shape)
    gate = decide(other, good, cohort)
    assert gate.verdict == "blend"
    assert gate.weight == 0.5
    assert gate.blend_low > 0
    assert "a blend predicts" in str(gate)


@pytest.mark.parametrize("n", [2, 6])
def test_a_network_without_gain_rarely_predicts_alone(n):
    """Two predictions of the same quality: their difference on a patient is chance."""
    patients = np.repeat(np.arange(n), 30)
    folds = make_folds(np.arange(len(patients)), patients, patients)
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(100):
        measured = rng.normal(size=(len(patients), GENES))
        common = measured + rng.normal(size=measured.shape)
        # The errors are nearly the same, so a blend gains little.
        better = 0.1 * rng.normal(size=(2, n))
        network, ridge = (common + sign[patients, None] * (measured - common) for sign in better)
        gate = judge(network, ridge, measured, folds=folds, slides=patients, applied=True)
        verdicts.append((gate.verdict, gate.low > 0))
    assert sum(sure for _, sure in verdicts) <= 12  # the lower bound of a 90 % interval is above 0 in one of twenty
    assert sum(verdict == "network" for verdict, _ in verdicts) <= 12
    assert sum(verdict == "ridge" for verdict, _ in verdicts) >= 20


def test_a_preset_that_reproduces_others_is_not_blended(cohort, junk):
    _, good, *_ = cohort
    gate = decide(junk, good, cohort, applied=False)
    assert gate.verdict == "ridge"
    assert gate.weight == 1
    assert gate.r_used == pytest.approx(gate.r_network)
    assert "as the preset requires" in str(gate)


def test_shifts_between_slides_do_not_count(cohort):
    """A prediction of the mean of each slide has r 0, although r pooled over slides is near 1."""
    measured, good, _, patients, folds = cohort
    shifted = measured + 100 * patients[:, None]
    level = np.repeat(100 * patients[:, None], GENES, axis=1).astype(float)
    gate = judge(level, good, shifted, folds=folds, slides=patients, applied=True)
    assert gate.r_network == 0


def test_a_gain_on_one_patient_is_not_enough_for_the_network(cohort):
    measured, _, middling, patients, _ = cohort
    network = np.random.default_rng(3).normal(size=measured.shape)
    network[patients == 0] = measured[patients == 0]
    gate = decide(network, middling, cohort)
    assert gate.verdict != "network"
    assert gate.high > 0 > gate.low


def test_an_uncertain_gain_of_a_blend_is_reported_as_such(cohort):
    measured, _, middling, patients, _ = cohort
    network = middling.copy()
    for patient, share in enumerate([1.0, -0.1, -0.1, -0.1, -0.1, -0.1]):
        rows = patients == patient
        network[rows] += share * (measured - middling)[rows]
    gate = decide(network, middling, cohort)
    assert gate.verdict == "blend"
    assert gate.blend_low < 0 < gate.blend_gain
    assert "its gain is not significant" in str(gate)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_an_interval_holds_its_mean_and_shifts_with_its_values(values):
    values = np.array(values)
    mean, low, high = interval(values)
    assert low <= mean <= high
    np.testing.assert_allclose(interval(values + 1), np.array([mean, low, high]) + 1, atol=1e-9)


def test_coverage_of_the_interval_over_units():
    rng = np.random.default_rng(0)
    inside = [low <= 0 <= high for _, low, high in (interval(rng.normal(size=3)) for _ in range(1000))]
    assert 0.87 < np.mean(inside) < 0.93
