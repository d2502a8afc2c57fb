import numpy as np

from deepspot.models._baselines import MLP


def test_it_is_the_network_of_the_definition(world):
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
    from dataclasses import replace

    scaled = [replace(bags, spot=100 * bags.spot + 5) for bags in (world.train, world.test)]
    options = {"hidden": (8,), "max_iter": 5}
    expected = MLP(**options).fit(world.train, world.image[0]).predict(world.test)
    np.testing.assert_allclose(MLP(**options).fit(scaled[0], world.image[0]).predict(scaled[1]), expected, atol=1e-3)
