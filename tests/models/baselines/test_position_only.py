from dataclasses import replace

import numpy as np
import pytest

from deepspot.models._baselines import PositionOnly


def test_it_sees_no_image(world):
    model = PositionOnly(n_trees=5).fit(world.train, world.place[0])
    blind = replace(world.test, spot=np.zeros_like(world.test.spot), subspots=None, tiles=None)
    np.testing.assert_array_equal(model.predict(blind), model.predict(world.test))


def test_it_sees_place_distance_and_number_of_neighbors(world):
    rng = np.random.default_rng(0)
    seen = [
        np.column_stack([b.position, np.hypot(*b.position.T), b.neighbors.sum(axis=1).A1])
        for b in (world.train, world.test)
    ]
    scale = seen[0].std(axis=0)  # all genes share the trees, so none may outweigh the others
    model = PositionOnly(n_trees=20).fit(world.train, seen[0] / scale + 0.01 * rng.normal(size=seen[0].shape))
    error = np.abs(model.predict(world.test) - seen[1] / scale).mean(axis=0)
    assert error.max() < 0.3
    assert min(tree.tree_.n_node_samples.min() for tree in model.regressor.estimators_) >= 3  # 5 with repeats


def test_spots_without_positions_are_refused(world):
    unplaced = replace(world.train, position=None)
    with pytest.raises(ValueError, match=r"PositionOnly needs positions.*`Bags\(position=...\)`"):
        PositionOnly().fit(unplaced, world.place[0])
