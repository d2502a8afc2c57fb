import numpy as np
import pytest

from deepspot._stats.metrics import pearson
from deepspot.models._confidence.folds import make_folds
from deepspot.models._confidence.reliability import measure_reliability

N, GENES = 240, 5


@pytest.fixture(scope="module")
def measured():
    return np.random.default_rng(0).normal(size=(N, GENES))


def labels(parts):
    return np.repeat(np.arange(parts), N // parts)


def test_expected_r_is_the_mean_over_patients_of_r_within_slides(measured):
    patients, slides = labels(3), labels(6)
    predicted = measured + np.random.default_rng(1).normal(size=measured.shape) + 5 * slides[:, None]
    found = measure_reliability(predicted, measured, make_folds(np.arange(N), slides, patients), slides)
    within = np.array([pearson(predicted[slides == s], measured[slides == s]) for s in range(6)])
    np.testing.assert_allclose(found.r, within.mean(axis=0), atol=1e-3)
    assert all(low <= r <= high for low, r, high in zip(found.r_low, found.r, found.r_high, strict=True))
    assert (found.unit, found.n) == ("patients", 3)


def test_intervals_need_five_patients(measured):
    few = measure_reliability(measured, measured, make_folds(np.arange(N), labels(4), labels(4)), labels(4))
    assert few.half_width is None
    assert "5" in few.why_no_interval
    noisy = measured + 0.5 * np.random.default_rng(2).normal(size=measured.shape)
    enough = measure_reliability(noisy, measured, make_folds(np.arange(N), labels(6), labels(6)), labels(6))
    assert enough.why_no_interval == ""
    covered = np.abs(noisy - measured) <= np.array(enough.half_width)
    assert 0.78 < covered.mean() <= 1


def test_slides_of_one_patient_give_no_intervals(measured):
    found = measure_reliability(measured, measured, make_folds(np.arange(N), labels(6), np.zeros(N)), labels(6))
    assert found.unit == "slides"
    assert found.half_width is None
    assert "one patient" in found.why_no_interval


def test_a_gene_that_varies_nowhere_has_no_r_and_a_constant_prediction_has_r_zero(measured):
    truth, predicted, slides = measured.copy(), measured.copy(), labels(3)
    truth[:, 0] = 1
    predicted[:, 1] = 1
    truth[slides > 0, 2] = 7
    found = measure_reliability(predicted, truth, make_folds(np.arange(N), slides, slides), slides)
    assert found.r[0] is None
    assert found.r[1] == 0
    assert found.r[2] == 1
    assert found.r_low[2] is None  # one patient alone
