from dataclasses import replace

import numpy as np

from deepspot.models._baselines import Linear


def test_it_is_least_squares_on_the_spot(world):
    targets, spot = world.image[0], world.train.spot.astype(float)
    design = np.column_stack([spot, np.ones(len(spot))])
    expected = design @ np.linalg.lstsq(design, targets, rcond=None)[0]
    np.testing.assert_allclose(Linear().fit(world.train, targets).predict(world.train), expected, atol=1e-4)


def test_features_that_do_not_vary_or_are_copies_break_nothing(world):
    copies = [
        replace(
            bags, spot=np.column_stack([bags.spot, bags.spot, np.full(len(bags), 3)]).astype("float32"), subspots=None
        )
        for bags in (world.train, world.test)
    ]
    predicted = Linear().fit(copies[0], world.image[0]).predict(copies[1])
    expected = Linear().fit(world.train, world.image[0]).predict(world.test)
    np.testing.assert_allclose(predicted, expected, atol=1e-3)
