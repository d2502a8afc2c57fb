from dataclasses import replace

import numpy as np
import pytest

from deepspot.models._inputs import context_features


def test_context_features_are_spot_mean_of_subspots_and_maximum_of_neighbors(bags):
    features = context_features(bags)
    row, near = 13, bags.neighbors[13].indices
    np.testing.assert_array_equal(features[row, :16], bags.spot[row])
    np.testing.assert_allclose(features[row, 16:32], bags.subspots[row].astype(np.float32).mean(0), atol=1e-6)
    np.testing.assert_array_equal(features[row, 32:], bags.spot[near].max(0))
    assert np.abs(features[-1, 32:]).max() == 0


def test_a_context_takes_its_columns_in_the_order_of_the_sets(bags):
    features = context_features(bags)
    np.testing.assert_array_equal(
        context_features(bags, ["neighbors", "spot"]), features[:, [*range(16), *range(32, 48)]]
    )
    np.testing.assert_array_equal(context_features(bags, ("subspots",)), features[:, 16:32])


def test_features_are_float32_from_half_precision(bags):
    assert context_features(replace(bags, spot=bags.spot.astype(np.float16))).dtype == np.float32


def test_a_context_that_cannot_be_made_says_why(bags):
    with pytest.raises(ValueError, match=r"sub-spots.*Embed with `subspots='tiles'`"):
        context_features(replace(bags, subspots=None))
    with pytest.raises(KeyError, match=r"'tiles'` not found.*'subspots'"):
        context_features(bags, ("spot", "tiles"))
    with pytest.raises(ValueError, match="empty"):
        context_features(bags, ())
    assert context_features(replace(bags, subspots=None), ("spot", "neighbors")).shape == (144, 32)
