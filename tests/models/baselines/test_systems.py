"""What holds for every system that can learn."""

from functools import partial

import numpy as np
import pytest
from torch import nn

from deepspot._stats.metrics import pearson
from deepspot.models._baselines import BLEEP, MLP, Linear, PositionOnly, RandomForest, Ridge, ShuffledImages, STNet
from deepspot.models._baselines import TrainingMean as Mean
from deepspot.models._estimator import Estimator


def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


SYSTEMS = {
    "ridge": Ridge,
    "ridge_pca": partial(Ridge, pca=8, context=("spot", "subspots")),
    "linear": Linear,
    "random_forest": partial(RandomForest, n_trees=20),
    "mlp": partial(MLP, hidden=(32,), lr=1e-2),
    "stnet": partial(STNet, lr=1e-3, epochs=20),
    "stnet_fine_tuned": partial(STNet, fine_tune=True, backbone=tiny, px=8, lr=1e-2, epochs=8),
    "bleep": partial(BLEEP, k=10, epochs=40),
    "position_only": partial(PositionOnly, n_trees=20),
}
KINDS = [Ridge, Linear, RandomForest, MLP, STNet, BLEEP, PositionOnly, ShuffledImages, Mean]


@pytest.fixture(scope="module", params=SYSTEMS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def planted(name, world):
    return world.place if name == "position_only" else world.image


@pytest.fixture(scope="module")
def predicted(name, world, planted):
    return SYSTEMS[name]().fit(world.train, planted[0], slides=world.slides).predict(world.test)


def test_it_learns_a_planted_signal(predicted, planted):
    assert predicted.dtype == np.float32
    assert pearson(predicted, planted[1]).min() > 0.8
    # Expression itself is predicted, not scores.
    np.testing.assert_allclose(predicted.mean(axis=0), planted[1].mean(axis=0), atol=0.5)


def test_it_learns_nothing_from_shuffled_targets(name, world):
    targets, truth = world.noise()
    r = pearson(SYSTEMS[name]().fit(world.train, targets, slides=world.slides).predict(world.test), truth)
    assert abs(np.nan_to_num(r).mean()) < 4 / np.sqrt(truth.size)  # four standard errors of the mean r of noise


def test_same_seed_same_prediction(name, world, planted, predicted):
    again = SYSTEMS[name]().fit(world.train, planted[0], slides=world.slides)
    np.testing.assert_array_equal(again.predict(world.test), predicted)


def test_genes_that_a_slide_did_not_measure_are_learnt_from_the_other(name, world, planted):
    holed = planted[0].copy()
    holed[world.slides == "b", 0] = np.nan
    r = pearson(SYSTEMS[name]().fit(world.train, holed, slides=world.slides).predict(world.test), planted[1])
    assert r.min() > 0.5


def test_rows_choose_the_spots_and_may_repeat(name, world, planted):
    rows = np.concatenate([np.arange(144), np.arange(0, 144, 2)])
    spoiled = planted[0].copy()
    spoiled[144:] = 1e3  # must not be seen
    predicted = SYSTEMS[name]().fit(world.train, spoiled, rows=rows).predict(world.test)
    assert pearson(predicted, planted[1]).min() > 0.5
    assert predicted.max() < 50


def test_one_gene_is_a_matrix_too(name, world, planted):
    model = SYSTEMS[name]().fit(world.train, planted[0][:, :1], rows=np.arange(40))
    assert model.predict(world.test).shape == (144, 1)


def test_targets_of_another_length_are_refused(name, world, planted):
    with pytest.raises(ValueError, match="same number of rows, got 288 and 287"):
        SYSTEMS[name]().fit(world.train, planted[0][:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfitted_baseline_says_so(kind, world):
    assert isinstance(kind(), Estimator)
    with pytest.raises(ValueError, match=f"{kind.__name__} is not fitted yet. Call `fit`"):
        (kind(fine_tune=True) if kind is STNet else kind()).predict(world.test)


@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        (Ridge, {"alphas": (1.0,), "context": ("spot",), "pca": 3}),
        (RandomForest, {"n_trees": 3, "context": ("spot",), "n_jobs": 2, "seed": 1}),
        (MLP, {"hidden": (4,), "lr": 0.1, "alpha": 0.1, "max_iter": 3, "seed": 1}),
        (STNet, {"fine_tune": True, "backbone": tiny, "lr": 0.1, "epochs": 1, "px": 8, "seed": 1, "device": "cpu"}),
        (BLEEP, {"k": 10, "temperature": 2.0, "lr": 0.1, "epochs": 1, "seed": 1, "device": "cpu"}),
        (PositionOnly, {"n_trees": 3, "n_jobs": 2, "seed": 1}),
        (ShuffledImages, {"factory": Linear, "seed": 1}),
    ],
)
def test_parameters_of_a_grid_are_kept_under_their_names(kind, grid):
    model = kind(**grid)
    assert {name: getattr(model, name) for name in grid} == grid
