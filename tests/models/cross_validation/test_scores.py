import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspot.models._cross_validation.scores import area, clip, curve, filled, mean_known, score


def test_which_side_made_r_undefined():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(8, 6)).astype(np.float32)
    predicted = measured + 0.1
    predicted[:, 1] = 0.7
    measured[:, 2] = 0.1
    predicted[3, 3] = np.nan
    measured[1:, 4] = np.nan
    measured[:4, 5] = np.nan
    r, undefined = score(predicted, measured)
    assert list(undefined) == [0, 1, 2, 1, 2, 0]
    np.testing.assert_allclose(r[[0, 5]], 1, atol=1e-6)
    np.testing.assert_array_equal(filled(r, undefined)[1:5], [0, np.nan, 0, np.nan])


def test_what_was_not_measured_does_not_matter():
    rng = np.random.default_rng(0)
    measured, predicted = rng.normal(size=(2, 8, 3))
    measured[2] = np.nan
    before = score(predicted, measured)[0]
    predicted[2] = np.nan
    np.testing.assert_array_equal(score(predicted, measured)[0], before)
    keep = np.arange(8) != 2
    np.testing.assert_allclose(before, [np.corrcoef(predicted[keep, g], measured[keep, g])[0, 1] for g in range(3)])


def test_numbers_of_genes_above_those_in_hand_are_all_genes_once():
    assert list(clip((5, 10, 200, 5000), 60)) == [5, 10, 60]
    assert list(clip((100,), 60)) == [60]


def test_curve_and_area_by_hand():
    top = np.array([1, 2, 4])
    means = curve(np.array([0.8, 0.4, np.nan, 0.0]), top)
    np.testing.assert_allclose(means, [0.8, 0.6, 0.4])
    assert area(top, means) == pytest.approx((0.7 * 1 + 0.5 * 2) / 3)
    assert area(top[:1], means[:1]) == 0.8
    assert np.isnan(curve(np.full(4, np.nan), top)).all()
    assert np.isnan(area(top, np.full(3, np.nan)))


@settings(max_examples=50, deadline=None)
@given(st.floats(-1, 1), st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_the_area_under_a_level_curve_is_its_level(level, top):
    numbers = clip(top, 40)
    assert area(numbers, curve(np.full(40, level), numbers)) == pytest.approx(level)


def test_mean_of_what_is_known():
    np.testing.assert_array_equal(mean_known([[1, np.nan, np.nan], [3, 2, np.nan]]), [2, 2, np.nan])
