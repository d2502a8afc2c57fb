import numpy as np
import pytest

from deepspot.models._cross_validation.summary import draws, gene_intervals, p_value, spread


def test_the_standard_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(size=40)
    se, low, high = spread(values[draws(40, 20_000, 0)].mean(axis=1))
    assert se == pytest.approx(values.std() / np.sqrt(40), rel=0.03)
    assert low == pytest.approx(values.mean() - 1.96 * se, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * se, abs=0.03)


def test_p_is_two_sided_and_never_below_what_so_few_patients_can_show():
    samples = draws(2, 10_000, 0)
    assert p_value(np.array([0.1, 0.2])[samples].mean(axis=1), 2) == 0.5
    many = np.random.default_rng(1).normal(0.3, 1, size=30)
    drawn = many[draws(30, 10_000, 0)].mean(axis=1)
    assert p_value(drawn, 30) == pytest.approx(p_value(-drawn, 30))
    assert 0.001 < p_value(drawn, 30) < 0.6
    assert p_value(np.zeros(100), 5) == 1


def test_under_no_difference_p_is_seldom_small():
    rng = np.random.default_rng(0)
    p = [p_value(rng.normal(size=12)[draws(12, 500, 0)].mean(axis=1), 12) for _ in range(300)]
    assert np.mean(np.array(p) < 0.05) < 0.12


def test_intervals_of_genes_are_over_the_patients_that_know_them():
    r = np.random.default_rng(0).normal(0.3, 0.1, size=(9, 4))
    r[:8, 1] = np.nan
    r[:3, 2] = np.nan
    low, high = gene_intervals(r, 4000, 0)
    assert np.isnan([low[1], high[1]]).all()
    for gene in (0, 2, 3):
        known = r[np.isfinite(r[:, gene]), gene]
        expected = spread(known[draws(len(known), 4000, 1)].mean(axis=1))[1:]
        np.testing.assert_allclose([low[gene], high[gene]], expected, atol=0.015)
