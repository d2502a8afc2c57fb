import numpy as np
import pytest

import deepspot as ds
from deepspot._metrics import pearson
from deepspot.models._features import context_features


def test_context_features_are_spot_mean_of_subspots_and_maximum_of_neighbors(bags):
    features = context_features(bags)
    row, near = 13, bags.neighbors[13].indices
    np.testing.assert_array_equal(features[row, :16], bags.spot[row])
    np.testing.assert_allclose(features[row, 16:32], bags.subspots[row].astype(np.float32).mean(0), atol=1e-6)
    np.testing.assert_array_equal(features[row, 32:], bags.spot[near].max(0))
    assert np.abs(features[-1, 32:]).max() == 0


def test_ridge_learns_a_planted_signal_and_nothing_from_noise(bags):
    weights = np.random.default_rng(0).normal(size=(48, 3))
    planted = context_features(bags) @ weights
    train, test = np.arange(0, 144, 2), np.arange(1, 144, 2)
    r = pearson(ds.models.Ridge().fit(bags, planted, rows=train).predict(bags)[test], planted[test])
    noise = np.random.default_rng(1).permutation(planted)
    null = pearson(ds.models.Ridge().fit(bags, noise, rows=train).predict(bags)[test], noise[test])
    assert r.min() > 0.8
    assert abs(null.mean()) < 0.2


def test_ridge_tunes_alpha_on_held_out_groups(bags):
    rng = np.random.default_rng(0)
    noisy = context_features(bags)[:, :3] + 20 * rng.normal(size=(144, 3))
    clean = context_features(bags)[:, :3]
    groups = np.repeat(["a", "b", "c"], 48)
    assert (
        ds.models.Ridge().fit(bags, noisy, patients=groups).alpha
        > ds.models.Ridge().fit(bags, clean, patients=groups).alpha
    )


def test_training_mean_is_the_null_model(bags, targets):
    holed = targets.copy()
    holed[:5, 0] = np.nan
    predicted = ds.models.TrainingMean().fit(bags, holed).predict(bags)
    np.testing.assert_allclose(predicted[7], np.nanmean(holed, axis=0))
    assert np.isnan(pearson(predicted, targets)).all()


@pytest.mark.parametrize("kind", [ds.models.Ridge, ds.models.TrainingMean])
def test_an_unfitted_baseline_says_so(kind, bags):
    with pytest.raises(ValueError, match="not fitted"):
        kind().predict(bags)
