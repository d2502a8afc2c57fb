from dataclasses import replace

import numpy as np
import pytest

from deepspot.models._baselines import MLP, Linear, PositionOnly, RandomForest


def test_linear_is_least_squares_on_the_spot(world):
    targets, spot = world.image[0], world.train.spot.astype(float)
    design = np.column_stack([spot, np.ones(len(spot))])
    expected = design @ np.linalg.lstsq(design, targets, rcond=None)[0]
    np.testing.assert_allclose(Linear().fit(world.train, targets).predict(world.train), expected, atol=1e-4)


def test_constant_and_duplicate_features(world):
    copies = [
        replace(
            bags, spot=np.column_stack([bags.spot, bags.spot, np.full(len(bags), 3)]).astype("float32"), subspots=None
        )
        for bags in (world.train, world.test)
    ]
    predicted = Linear().fit(copies[0], world.image[0]).predict(copies[1])
    expected = Linear().fit(world.train, world.image[0]).predict(world.test)
    np.testing.assert_allclose(predicted, expected, atol=1e-3)


def test_the_mlp_is_the_network_of_the_definition(world):
    network = MLP(max_iter=1).fit(world.train, world.image[0]).regressor[-1]
    assert [part.shape for part in network.coefs_] == [(6, 512), (512, 512), (512, 6)]
    assert (network.activation, network.solver, network.learning_rate_init, network.alpha) == (
        "relu",
        "adam",
        1e-3,
        1e-4,
    )
    assert MLP().max_iter == 200


def test_the_scale_of_an_encoder_does_not_matter(world):
    scaled = [replace(bags, spot=100 * bags.spot + 5) for bags in (world.train, world.test)]
    options = {"hidden": (8,), "max_iter": 5}
    expected = MLP(**options).fit(world.train, world.image[0]).predict(world.test)
    np.testing.assert_allclose(MLP(**options).fit(scaled[0], world.image[0]).predict(scaled[1]), expected, atol=1e-3)


def test_a_forest_has_the_trees_of_the_benchmark_and_sees_the_spot_alone(world):
    model = RandomForest().fit(world.train, world.image[0])
    assert len(model.regressor.estimators_) == 70
    alone = replace(world.test, subspots=None, neighbors=0 * world.test.neighbors)
    np.testing.assert_array_equal(model.predict(alone), model.predict(world.test))


def test_a_forest_sees_the_context_that_it_is_given(world):
    model = RandomForest(n_trees=5, context=("subspots", "neighbors")).fit(world.train, world.image[0])
    assert model.regressor.n_features_in_ == 2 * world.train.dim
    with pytest.raises(ValueError, match="Embed with"):
        model.predict(replace(world.test, subspots=None))


def test_position_only_sees_no_image(world):
    model = PositionOnly(n_trees=5).fit(world.train, world.place[0])
    blind = replace(world.test, spot=np.zeros_like(world.test.spot), subspots=None, tiles=None)
    np.testing.assert_array_equal(model.predict(blind), model.predict(world.test))


def test_position_only_uses_position_distance_and_number_of_neighbors(world):
    rng = np.random.default_rng(0)
    seen = [
        np.column_stack([b.position, np.hypot(*b.position.T), b.neighbors.sum(axis=1).A1])
        for b in (world.train, world.test)
    ]
    scale = seen[0].std(axis=0)  # genes share the trees, so they need the same scale
    model = PositionOnly(n_trees=20).fit(world.train, seen[0] / scale + 0.01 * rng.normal(size=seen[0].shape))
    error = np.abs(model.predict(world.test) - seen[1] / scale).mean(axis=0)
    assert error.max() < 0.3
    assert min(tree.tree_.n_node_samples.min() for tree in model.regressor.estimators_) >= 3  # 5 with repeats


def test_spots_without_positions_are_refused(world):
    unplaced = replace(world.train, position=None)
    with pytest.raises(ValueError, match=r"PositionOnly needs positions.*`Bags\(position=...\)`"):
        PositionOnly().fit(unplaced, world.place[0])
