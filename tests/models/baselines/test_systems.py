"""Common tests of all systems."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from deepspot._stats.metrics import pearson
from deepspot.models._baselines import BLEEP, MLP, Linear, PositionOnly, RandomForest, Ridge, ShuffledImages, STNet
from deepspot.models._baselines import TrainingMean as Mean
from deepspot.models._estimator import Estimator
from deepspot.models._whole_slide import TRIPLEX, Hist2ST, HisToGene, THItoGene

from .conftest import tiny

GRAPH = {"hidden": 32, "graph_heads": 2, "graph_dim": (16, 32, 32)}
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
    "histogene": partial(HisToGene, dim=32, layers=1, heads=2, lr=3e-3, epochs=60),
    "hist2st": partial(Hist2ST, dim=32, layers=1, graph_layers=2, heads=2, zinb=0, lr=3e-3, epochs=60),
    "thitogene": partial(THItoGene, capsules=2, route=8, layers=1, heads=2, **GRAPH, lr=3e-3, epochs=60),
    "triplex": partial(TRIPLEX, dim=16, layers=(1, 2, 1), heads=(2, 2, 2), lr=1e-2, epochs=25),
}
NULLS = {"training_mean": Mean, "shuffled_images": partial(ShuffledImages, factory=Linear)}
KINDS = [Ridge, Linear, RandomForest, MLP, STNet, BLEEP, PositionOnly, ShuffledImages, Mean]
KINDS += [HisToGene, Hist2ST, THItoGene, TRIPLEX]


@pytest.fixture(scope="module", params=SYSTEMS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def planted(name, world):
    return getattr(world, {"position_only": "place", "hist2st": "around", "thitogene": "place"}.get(name, "image"))


@pytest.fixture(scope="module")
def predicted(name, world, planted):
    return SYSTEMS[name]().fit(world.train, planted[0], slides=world.slides).predict(world.test)


def test_it_learns_a_planted_signal(predicted, planted):
    assert predicted.dtype == np.float32
    assert pearson(predicted, planted[1]).min() > 0.8
    # Predictions are expression, not standard scores.
    np.testing.assert_allclose(predicted.mean(axis=0), planted[1].mean(axis=0), atol=0.5)


def test_it_learns_nothing_from_shuffled_targets(name, world):
    targets, truth = world.noise()
    r = pearson(SYSTEMS[name]().fit(world.train, targets, slides=world.slides).predict(world.test), truth)
    assert abs(np.nan_to_num(r).mean()) < 4 / np.sqrt(truth.size)  # four standard errors of the mean r of noise


def test_same_seed_same_prediction(name, world, planted, predicted):
    again = SYSTEMS[name]().fit(world.train, planted[0], slides=world.slides)
    np.testing.assert_array_equal(again.predict(world.test), predicted)


def test_genes_that_a_slide_did_not_measure_are_learned_from_the_other(name, world, planted):
    holed = planted[0].copy()
    holed[world.slides == "b", 0] = np.nan
    r = pearson(SYSTEMS[name]().fit(world.train, holed, slides=world.slides).predict(world.test), planted[1])
    assert r.min() > 0.5


def test_rows_choose_the_spots_and_may_repeat(name, world, planted):
    rows = np.concatenate([np.arange(144), np.arange(0, 144, 2)])
    spoiled = planted[0].copy()
    spoiled[144:] = 1e3  # not in `rows`
    predicted = SYSTEMS[name]().fit(world.train, spoiled, rows=rows, slides=world.slides).predict(world.test)
    assert pearson(predicted, planted[1]).min() > 0.5
    assert predicted.max() < 50


def test_one_gene_is_a_matrix_too(name, world, planted):
    model = SYSTEMS[name]().fit(world.train, planted[0][:, :1], rows=np.arange(40), slides=world.slides)
    assert model.predict(world.test).shape == (144, 1)


@pytest.mark.parametrize("make", [*SYSTEMS.values(), *NULLS.values()], ids=[*SYSTEMS, *NULLS])
def test_arrays_that_do_not_match_are_errors_and_leave_the_model_unchanged(make, world):
    rows = np.arange(40)
    model = make().fit(world.train, world.image[0], rows=rows, slides=world.slides)
    before = model.predict(world.test)
    given = {"targets": world.image[0], "rows": rows, "slides": world.slides}
    for bad, message in (
        ({"targets": world.image[0][:-1]}, "same number of rows, got 288 and 287"),
        ({"rows": np.array([288])}, "`rows` must be row numbers from 0 to 287"),
        ({"slides": world.slides[1:]}, "`slides` must have one label for each of the 288 spots, got 287"),
        ({"patients": world.slides[1:]}, "`patients` must have one label"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(world.train, **given | bad)
    np.testing.assert_array_equal(model.predict(world.test), before)


@pytest.mark.parametrize("make", [*SYSTEMS.values(), *NULLS.values()], ids=[*SYSTEMS, *NULLS])
def test_half_precision_and_an_unmeasured_gene_are_accepted(make, world):
    train, test = (replace(bags, spot=bags.spot.astype(np.float16)) for bags in (world.train, world.test))
    holed = world.image[0].copy()
    holed[:, 0] = np.nan
    predicted = make().fit(train, holed, rows=np.arange(40), slides=world.slides).predict(test)
    assert predicted.dtype == np.float32
    assert np.isfinite(predicted).all()


@pytest.mark.parametrize(
    "make",
    [
        partial(RandomForest, n_trees=3),
        partial(PositionOnly, n_trees=3),
        partial(MLP, hidden=(4,), max_iter=2),
        partial(STNet, fine_tune=True, backbone=tiny, px=8, lr=1e-2, epochs=1),
        partial(BLEEP, k=5, epochs=1),
        partial(ShuffledImages, factory=Linear),
        partial(HisToGene, dim=8, layers=1, heads=1, epochs=1),
        partial(TRIPLEX, dim=8, layers=(1, 1, 1), heads=(1, 1, 1), epochs=1),
    ],
)
def test_another_seed_is_another_model(make, world):
    first, again, other = (
        make(seed=seed).fit(world.train, world.image[0], slides=world.slides).predict(world.test) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


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
