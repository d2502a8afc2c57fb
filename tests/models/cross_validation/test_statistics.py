import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspot.models._cross_validation.statistics import (
    area,
    clip,
    curve,
    draws,
    filled,
    gene_intervals,
    mean_known,
    p_value,
    score,
    spread,
)


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


def test_predictions_of_unmeasured_spots_are_ignored():
    rng = np.random.default_rng(0)
    measured, predicted = rng.normal(size=(2, 8, 3))
    measured[2] = np.nan
    before = score(predicted, measured)[0]
    predicted[2] = np.nan
    np.testing.assert_array_equal(score(predicted, measured)[0], before)
    keep = np.arange(8) != 2
    np.testing.assert_allclose(before, [np.corrcoef(predicted[keep, g], measured[keep, g])[0, 1] for g in range(3)])


def test_numbers_above_the_number_of_genes_become_all_genes_once():
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


def test_the_standard_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(size=40)
    se, low, high = spread(values[draws(40, 20_000, 0)].mean(axis=1))
    assert se == pytest.approx(values.std() / np.sqrt(40), rel=0.03)
    assert low == pytest.approx(values.mean() - 1.96 * se, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * se, abs=0.03)


def test_p_is_two_sided_and_has_a_minimum_by_number_of_patients():
    samples = draws(2, 10_000, 0)
    assert p_value(np.array([0.1, 0.2])[samples].mean(axis=1), 2) == 0.5
    many = np.random.default_rng(1).normal(0.3, 1, size=30)
    drawn = many[draws(30, 10_000, 0)].mean(axis=1)
    assert p_value(drawn, 30) == pytest.approx(p_value(-drawn, 30))
    assert 0.001 < p_value(drawn, 30) < 0.6
    assert p_value(np.zeros(100), 5) == 1


def test_p_is_calibrated_without_a_difference():
    rng = np.random.default_rng(0)
    p = [p_value(rng.normal(size=12)[draws(12, 500, 0)].mean(axis=1), 12) for _ in range(300)]
    assert np.mean(np.array(p) < 0.05) < 0.12


def test_gene_intervals_are_over_patients_with_known_r():
    r = np.random.default_rng(0).normal(0.3, 0.1, size=(9, 4))
    r[:8, 1] = np.nan
    r[:3, 2] = np.nan
    low, high = gene_intervals(r, 4000, 0)
    assert np.isnan([low[1], high[1]]).all()
    for gene in (0, 2, 3):
        known = r[np.isfinite(r[:, gene]), gene]
        expected = spread(known[draws(len(known), 4000, 1)].mean(axis=1))[1:]
        np.testing.assert_allclose([low[gene], high[gene]], expected, atol=0.015)
