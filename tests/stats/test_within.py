import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr

from deepspot._stats.ceiling import ceiling
from deepspot._stats.within import WithinSpots, center_by, interpolate, r_within

OPTIONS = {"n_bootstrap": 300, "n_swaps": 199, "seed": 0}


@pytest.fixture
def places():
    """60 spots of 5 places: gene 0 agrees within spots, gene 1 between spots only, genes 2 and 3 are constant."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    spot, own = rng.normal(size=(60, 2))[groups], rng.normal(size=(300, 2))
    measured = np.column_stack([3 * spot[:, 0] + own[:, 0], 3 * spot[:, 1] + own[:, 1], np.full(300, 2.0), own[:, 0]])
    noise = rng.normal(size=300)
    predicted = np.column_stack([spot[:, 0] + own[:, 0] + noise, spot[:, 1], own[:, 0], np.full(300, 1.0)])
    return predicted, measured, groups


def test_r_is_that_of_deviations_from_the_means_of_spots(places):
    predicted, measured, groups = places
    a, b = (
        values[:, 0] - np.array([values[groups == group, 0].mean() for group in range(60)])[groups]
        for values in (predicted, measured)
    )
    r = r_within(predicted, measured, groups)
    assert r[0] == pytest.approx(pearsonr(a, b)[0], abs=1e-12)
    np.testing.assert_allclose(center_by(predicted, groups)[:, 0], a, atol=1e-12)


def test_what_only_spots_explain_has_no_r_within(places):
    predicted, measured, groups = places
    assert pearsonr(predicted[:, 1], measured[:, 1])[0] > 0.9
    r = r_within(predicted, measured, groups)
    assert r[1] == 0
    assert np.isnan(r[2])  # constant measurement
    assert r[3] == 0  # constant prediction


def test_interval_and_swaps(places):
    predicted, measured, groups = places
    within = WithinSpots(groups, **OPTIONS)
    found = within.add(predicted, measured)
    assert found["low"][0] < found["r"][0] < found["high"][0]
    assert found["low"][0] > 0.5
    assert found["p"][0] == pytest.approx(1 / 200)
    assert found["p"][1] == 1
    assert np.isnan(found["p"][2])
    mean = within.mean()
    assert mean["r"] == pytest.approx(np.nanmean(found["r"]))
    assert mean["low"] < mean["r"] < mean["high"]
    assert mean["p"] == pytest.approx(1 / 200)


def test_blocks_of_genes_and_the_order_of_places_have_no_effect(places):
    predicted, measured, groups = places
    whole, parts = WithinSpots(groups, **OPTIONS), WithinSpots(groups, **OPTIONS)
    found = whole.add(predicted, measured)
    blocks = [parts.add(predicted[:, genes], measured[:, genes]) for genes in (slice(0, 1), slice(1, 4))]
    for name, values in found.items():
        np.testing.assert_allclose(np.concatenate([block[name] for block in blocks]), values, rtol=1e-9)
    assert parts.mean() == pytest.approx(whole.mean())
    order = np.random.default_rng(2).permutation(len(groups))
    other = WithinSpots(groups[order], **OPTIONS).add(predicted[order], measured[order])
    np.testing.assert_allclose(other["r"], found["r"], rtol=1e-9)
    np.testing.assert_allclose(other["low"], found["low"], rtol=1e-9)


def test_without_measured_genes_there_is_no_mean():
    within = WithinSpots(np.array([0, 0, 1, 1]), **OPTIONS)
    within.add(np.ones((4, 2)), np.full((4, 2), np.nan))
    assert np.isnan(list(within.mean().values())).all()


def test_p_of_unrelated_predictions_is_uniform():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 4)
    found = WithinSpots(groups, **OPTIONS).add(rng.normal(size=(80, 400)), rng.normal(size=(80, 400)))
    assert 0.02 < (found["p"] <= 0.05).mean() < 0.09
    assert ((found["low"] < 0) & (found["high"] > 0)).mean() > 0.88


def test_swaps_stay_within_spots():
    """The order of a spot's places changes r, so p of a prediction that is right in one spot of many is not small."""
    groups = np.repeat(np.arange(2), 2)
    measured = np.array([[0.0], [1.0], [10.0], [11.0]])
    found = WithinSpots(groups, n_bootstrap=10, n_swaps=999, seed=0).add(measured, measured)
    assert found["r"][0] == pytest.approx(1)
    assert found["p"][0] == pytest.approx(0.25, abs=0.06)  # both spots in the right order by chance


def test_interpolation_is_exact_for_a_plane_and_the_nearest_outside():
    at = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    values = at @ [[1.0], [10.0]]
    np.testing.assert_allclose(interpolate(values, at, np.array([[1.0, 0.5], [2, 2]])).ravel(), [6, 22])
    assert interpolate(values, at, np.array([[9.0, 9]])).item() == 22
    assert interpolate(values[:2], at[:2], np.array([[1.9, 5.0]])).item() == 2  # two spots have no plane


def test_ceiling_within_spots_is_lower_than_over_all():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 5)
    level = np.exp(rng.normal(0, 1, 80))[groups] * np.exp(rng.normal(0, 0.3, 400))
    counts = csr_matrix(rng.poisson(np.column_stack([20 * level, np.full(400, 100)])))
    depth = np.asarray(counts.sum(axis=1)).ravel()
    within, everywhere = (ceiling(counts, depth, groups=each)[0] for each in (groups, None))
    assert within < everywhere - 0.1
    # The truth has about this r with a measurement.
    logged = np.log1p(1e4 * counts.toarray() / depth[:, None])[:, [0]]
    truth = np.log1p(1e4 * (20 * level / (20 * level + 100)))[:, None]
    assert within == pytest.approx(r_within(truth, logged, groups)[0], abs=0.12)
