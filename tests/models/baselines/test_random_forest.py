from dataclasses import replace

import numpy as np
import pytest

from deepspot.models._baselines import RandomForest


def test_it_has_the_trees_of_the_benchmark_and_sees_the_spot_alone(world):
    model = RandomForest().fit(world.train, world.image[0])
    assert len(model.regressor.estimators_) == 70
    alone = replace(world.test, subspots=None, neighbors=0 * world.test.neighbors)
    np.testing.assert_array_equal(model.predict(alone), model.predict(world.test))


def test_it_sees_the_context_that_it_is_given(world):
    model = RandomForest(n_trees=5, context=("subspots", "neighbors")).fit(world.train, world.image[0])
    assert model.regressor.n_features_in_ == 2 * world.train.dim
    with pytest.raises(ValueError, match="Embed with"):
        model.predict(replace(world.test, subspots=None))


def test_another_seed_is_another_forest(world):
    forests = [RandomForest(n_trees=3, seed=seed).fit(world.train, world.image[0]) for seed in (0, 1)]
    assert np.abs(forests[0].predict(world.test) - forests[1].predict(world.test)).max() > 0.1
