"""Counts and predictions combined by their noise, against planted truths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import nbinom

from deepspot._stats.gamma_poisson import MIN_EXPECTED, level_shift, posterior, residuals

GENES, SPOTS = 6, 4000


@pytest.fixture(scope="module")
def planted():
    """True rates with known dispersion about a prediction, and counts of spots of very different depth."""
    rng = np.random.default_rng(0)
    spread = np.array([0.05, 0.1, 0.3, 0.5, 1.0, 2.0])
    expected = rng.lognormal(2, 0.5, size=(SPOTS, GENES))
    truth = expected * rng.gamma(1 / spread, spread, size=expected.shape)
    exposure = rng.uniform(0.05, 1.0, size=SPOTS)
    return rng.poisson(truth * exposure[:, None]), exposure, expected, spread, truth


def test_dispersion_is_what_is_left_without_counting_noise(planted):
    counts, exposure, expected, spread, _ = planted
    found, level = residuals([(counts, exposure, expected)])
    np.testing.assert_allclose(found, spread, rtol=0.25)
    np.testing.assert_allclose(level, 1, rtol=0.1)


def test_a_prediction_without_error_has_no_dispersion_however_shallow(planted):
    _, exposure, expected, _, _ = planted
    counts = np.random.default_rng(1).poisson(expected * exposure[:, None] * 0.05)
    mean = expected * exposure[:, None] * 0.05
    error = np.sqrt((mean + 2 * mean**2).sum(axis=0)) / (mean**2).sum(axis=0)  # of the estimate, from Poisson noise
    assert (residuals([(counts, exposure * 0.05, expected)])[0] < 3 * error).all()


def test_slide_levels_do_not_count_as_dispersion(planted):
    counts, exposure, expected, _, _ = planted
    one = residuals([(counts, exposure, expected)])
    other = residuals([(counts, exposure, expected * 3)])
    np.testing.assert_allclose(one[0], other[0])
    np.testing.assert_allclose(one[1], other[1] * 3)


def test_unknown_entries_and_genes_that_no_slide_shows_are_left_out(planted):
    counts, exposure, expected, _, _ = planted
    holes = expected.copy()
    holes[::2, 0] = np.nan
    holes[:, 1] = np.nan
    counts = counts.copy()
    counts[:, 2] = 0
    found, level = residuals([(counts, exposure, holes)])
    half, _ = residuals([(counts[1::2], exposure[1::2], expected[1::2])])
    assert found[0] == pytest.approx(half[0])
    assert np.isnan([found[1], level[1], found[2], level[2]]).all()


def test_posterior_is_closer_to_another_measurement_than_counts_and_prediction(planted):
    counts, exposure, expected, spread, truth = planted
    other = np.log1p(np.random.default_rng(7).poisson(truth))  # of 10,000 counts

    def error(logs):
        return np.sqrt(np.mean((logs - other) ** 2, axis=0))

    logs, rate, weight = posterior(counts, exposure, expected, spread)
    assert (error(logs) < error(np.log1p(counts / exposure[:, None]))).all()
    assert (error(logs) < error(np.log1p(expected))).all()
    # The logarithm of the mean rate does worse, and so do other dispersions.
    assert error(logs).mean() < error(np.log1p(rate)).mean()
    np.testing.assert_allclose(rate, weight * counts / exposure[:, None] + (1 - weight) * expected, rtol=0.05)
    np.testing.assert_allclose(rate.mean(axis=0), truth.mean(axis=0), rtol=0.1)
    for factor in (0.5, 2.0):
        assert error(logs).mean() < error(posterior(counts, exposure, expected, spread * factor)[0]).mean()
    deep = exposure > 0.9
    assert (weight[deep].mean(axis=0) > weight[exposure < 0.15].mean(axis=0)).all()
    assert (np.diff(weight.mean(axis=0)) > 0).all()  # what the image tells little of keeps its measurement


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_the_mean_of_a_posterior_does_not_depend_on_depth(planted, share):
    _, _, expected, spread, truth = planted
    rng = np.random.default_rng(5)
    logs, *_ = posterior(rng.poisson(truth * share), np.full(SPOTS, share), expected, spread)
    np.testing.assert_allclose(logs.mean(axis=0), np.log1p(rng.poisson(truth)).mean(axis=0), atol=0.05)


@pytest.mark.parametrize("spread", [0.01, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("mean", [0.01, 1.0, 20.0, 500.0])
def test_a_spot_without_counts_gets_the_mean_logarithm_of_what_is_expected(mean, spread):
    logs, rate, weight = posterior(np.zeros((1, 1)), np.zeros(1), np.full((1, 1), mean), np.array([spread]))
    exact = nbinom(1 / spread, 1 / (1 + mean * spread)).expect(np.log1p, tolerance=1e-12, maxcount=10**6)
    assert logs[0, 0] == pytest.approx(exact, abs=1e-3)
    assert (rate[0, 0], weight[0, 0]) == (pytest.approx(mean), 0)


def test_large_rates_of_other_scales_are_as_exact():
    for mean in (500.0, 20_000.0):
        logs, *_ = posterior(np.zeros((1, 1)), np.zeros(1), np.full((1, 1), mean), np.array([0.1]), most=1_000_000)
        k = np.arange(int(20 * mean))
        exact = (nbinom.pmf(k, 10, 1 / (1 + 0.1 * mean)) * np.log1p(k)).sum()
        assert logs[0, 0] == pytest.approx(exact, abs=1e-3)


def test_a_prediction_of_zero_can_be_changed_by_counts():
    expected = np.array([[0.0], [4.0]])
    logs, *_ = posterior(np.array([[8.0], [4.0]]), np.ones(2), expected, np.ones(1))
    without, *_ = posterior(np.array([[0.0], [4.0]]), np.ones(2), expected, np.ones(1))
    assert logs[0, 0] > without[0, 0] > 0


@given(
    counts=arrays(int, (5, 3), elements=st.integers(0, 50)),
    expected=arrays(float, (5, 3), elements=st.floats(0, 100)),
    depth=arrays(float, 5, elements=st.just(0.0) | st.floats(1e-4, 3)),
    spread=arrays(float, 3, elements=st.floats(0, 10)),
    exact=st.sampled_from([{"most": 10_000, "up_to": 500}, {"most": 50_000, "up_to": 50_000}]),
)
def test_a_posterior_is_finite_and_at_most_the_logarithm_of_the_mean_rate(counts, expected, depth, spread, exact):
    counts = np.where(depth[:, None] > 0, counts, 0)
    logs, rate, weight = posterior(counts, depth, expected, spread, most=exact["most"])
    measured = np.divide(counts, depth[:, None], out=np.zeros_like(expected), where=depth[:, None] > 0)
    assert ((weight >= 0) & (weight <= 1)).all()
    lowest = np.maximum(expected, MIN_EXPECTED * expected.mean(axis=0))
    assert (logs >= 0).all()
    np.testing.assert_allclose(rate, weight * measured + (1 - weight) * lowest, rtol=1e-6, atol=1e-9)
    assert (logs <= np.log1p(rate) + 1e-3)[rate <= exact["up_to"]].all()


def test_a_level_shift_is_found_and_shrunk(planted):
    _, exposure, expected, _, _ = planted
    planted_shift = np.array([0.5, 1.0, 2.0, 1.0, 3.0, 1.0])
    rng = np.random.default_rng(2)
    counts = rng.poisson(expected * planted_shift * exposure[:, None])
    np.testing.assert_allclose(level_shift(counts, exposure, expected), planted_shift, rtol=0.1)
    few = rng.poisson(expected[:4] * planted_shift * 0.01)
    shrunk = level_shift(few, np.full(4, 0.01), expected[:4])
    assert (np.abs(shrunk - 1) < np.abs((few.sum(axis=0) / (expected[:4] * 0.01).sum(axis=0)) - 1) + 1e-9).all()


@pytest.mark.parametrize("share", [0.1, 0.001])
def test_a_level_that_all_genes_share_is_not_shrunk(planted, share):
    # As of a model that learned means of logarithms: what it predicts is too low for every gene.
    _, exposure, expected, _, _ = planted
    counts = np.random.default_rng(4).poisson(expected[:200] * 2.55 * exposure[:200, None] * share)
    shift = level_shift(counts, exposure[:200] * share, expected[:200])
    np.testing.assert_allclose(shift, 2.55, rtol=0.2)


def test_a_slide_without_counts_has_no_shift():
    assert (level_shift(np.zeros((4, 3)), np.zeros(4), np.ones((4, 3))) == 1).all()


def test_without_shifts_levels_stay(planted):
    _, exposure, expected, _, _ = planted
    counts = np.random.default_rng(3).poisson(expected[:50] * exposure[:50, None] * 0.1)
    np.testing.assert_allclose(level_shift(counts, exposure[:50] * 0.1, expected[:50]), 1, atol=0.15)
