import numpy as np
import pytest

from deepspot._stats.agreement import agreement_of_genes, agreement_of_values

N, GENES = 60, 40


@pytest.fixture
def measured():
    rng = np.random.default_rng(0)
    return rng.gamma(2, 1, size=GENES) + 0.3 * rng.normal(size=(N, GENES))


def test_the_parts_sum_to_r_over_all_values(measured):
    predicted = 0.5 * measured + np.random.default_rng(1).normal(size=measured.shape)
    found = agreement_of_values(predicted, measured)
    assert found["r_all"] == pytest.approx(np.corrcoef(predicted.ravel(), measured.ravel())[0, 1])
    assert found["r_all_means"] + found["r_all_pattern"] == pytest.approx(found["r_all"])


def test_a_prediction_that_knows_only_the_means_of_genes_has_no_pattern(measured):
    means = np.tile(measured.mean(axis=0), (N, 1))
    found = agreement_of_values(means, measured)
    assert found["r_all"] > 0.9
    assert found["r_all_pattern"] == pytest.approx(0, abs=1e-12)
    assert found["r_all"] == pytest.approx(found["r_all_of_means"])
    assert np.isnan(found["slope"])


def test_a_prediction_that_knows_only_the_pattern_has_no_means(measured):
    found = agreement_of_values(measured - measured.mean(axis=0), measured)
    assert found["r_all_means"] == pytest.approx(0, abs=1e-12)
    assert 0 < found["r_all_pattern"] < 0.5
    assert found["slope"] == pytest.approx(1)


@pytest.mark.parametrize(("factor", "slope"), [(0.5, 2), (4, 0.25)])
def test_slope_says_if_differences_are_too_small_or_too_large(measured, factor, slope):
    predicted = factor * measured
    assert agreement_of_values(predicted, measured)["slope"] == pytest.approx(slope)
    np.testing.assert_allclose(agreement_of_genes(predicted, measured, None)["slope"], slope)


def test_noise_of_the_measurement_does_not_change_the_slope(measured):
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(20_000, 1))
    noisy = truth + 3 * rng.normal(size=truth.shape)
    assert agreement_of_genes(truth, noisy, None)["slope"][0] == pytest.approx(1, abs=0.07)


def test_genes_that_were_not_measured_are_left_out(measured):
    predicted = measured + np.random.default_rng(1).normal(size=measured.shape)
    gaps = measured.copy()
    gaps[:, 5:] = np.nan
    found = agreement_of_values(predicted, gaps)
    assert found == pytest.approx(agreement_of_values(predicted[:, :5], measured[:, :5]))
    empty = agreement_of_values(predicted, np.full_like(measured, np.nan))
    assert np.isnan(list(empty.values())).all()


def test_measures_of_genes(measured):
    rng = np.random.default_rng(1)
    predicted = measured + rng.normal(size=measured.shape)
    predicted[:, 0] = 1
    gaps = measured.copy()
    gaps[:, 1], gaps[:, 2] = np.nan, 2
    y, x = np.mgrid[:6, :10]
    frame = agreement_of_genes(predicted, gaps, np.column_stack([x.ravel(), y.ravel()]) * 100.0)
    assert frame.loc[3:].notna().all(axis=None)
    np.testing.assert_allclose(frame["mae"][3:], np.abs(predicted - measured).mean(axis=0)[3:])
    assert frame.loc[1].isna().all()
    defined = ["rmse", "mae"]
    assert set(frame.columns[frame.loc[2].notna()]) == {*defined, "moran_predicted"}  # a constant measurement
    assert set(frame.columns[frame.loc[0].notna()]) == {*defined, "ssim", "ssim_of_mean", "moran_measured"}
    without = agreement_of_genes(predicted, gaps, None)
    assert without[["lee", "ssim", "ssim_of_mean", "moran_predicted", "moran_measured"]].isna().all(axis=None)
    assert without[["pearson", "spearman", "rmse", "mae", "slope"]].equals(
        frame[["pearson", "spearman", "rmse", "mae", "slope"]]
    )
