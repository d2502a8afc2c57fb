"""Common tests of the models of cells."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._stats.metrics import pearson
from deepspot.models import CellSum, DeepCell, DeepSpot2Cell

QUICK = {"width": 32, "dropout": 0.1, "spots_per_step": 32, "epochs": 25, "seed": 0, "device": "cpu"}
MODELS = {
    "cell_sum": partial(CellSum, **QUICK | {"lr": 3e-3}),
    "deepspot2cell": partial(DeepSpot2Cell, **QUICK | {"lr": 2e-3, "n_ensemble": 2}),
    "deepcell": partial(DeepCell, **QUICK | {"lr": 3e-3, "n_ensemble": 2}),
}
OF_SPOTS = ["cell_sum", "deepspot2cell"]


def cells_of(model, bags: Bags, **options) -> np.ndarray:
    predicted = model.predict_cells(bags, **options)
    return predicted[0] if isinstance(predicted, tuple) else predicted


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fits(train):
    known = {}
    return lambda name: known.setdefault(name, MODELS[name]().fit(train.bags, train.expression))


@pytest.fixture(scope="module")
def model(name, fits):
    return fits(name)


def test_spots_are_predicted(name, model, test):
    predicted = model.predict(test.bags)
    assert predicted.dtype == np.float32
    assert pearson(predicted, test.expression).mean() > (0.6 if name == "deepcell" else 0.8)
    np.testing.assert_allclose(predicted.mean(axis=0), test.expression.mean(axis=0), atol=0.5)


@pytest.mark.parametrize("name", OF_SPOTS)
def test_differences_within_spots_are_found_where_they_are_planted(name, fits, test, r_within):
    """The null model permutes the predictions among the cells of a spot."""
    cells = cells_of(fits(name), test.bags)
    assert cells.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(cells).all(axis=2), test.bags.present)
    r = r_within(cells, test.cells)
    rng, null = np.random.default_rng(0), []
    for _ in range(20):
        swapped = cells.copy()
        for spot, present in zip(swapped, test.bags.present, strict=True):
            spot[present] = rng.permutation(spot[present])
        null.append(r_within(swapped, test.cells))
    assert r.min() > 0.6
    assert r.min() > np.max(null) + 0.3


@pytest.mark.parametrize("name", OF_SPOTS)
def test_cells_without_information_have_no_signal_within_spots(name, train, test, r_within):
    model = MODELS[name]().fit(train.blind(0), train.expression)
    bags = test.blind(1)
    assert pearson(model.predict(bags), test.expression).mean() > 0.4  # that of the spot tile
    r = r_within(cells_of(model, bags), test.cells)
    n = test.bags.present.sum()
    assert np.abs(r).max() < 4 / np.sqrt(n)  # four standard errors of the r of noise


def test_padding_and_order_of_cells_have_no_effect(name, model, test):
    bags, rows = test.bags, np.arange(len(test.bags))[:, None]
    padded = replace(
        bags,
        subspots=np.insert(bags.subspots, [0, 3, 3], 0, axis=1),
        present=np.insert(bags.present, [0, 3, 3], False, axis=1),
    )
    order = np.random.default_rng(0).permuted(np.tile(np.arange(bags.present.shape[1]), (len(bags), 1)), axis=1)
    permuted = replace(bags, subspots=bags.subspots[rows, order], present=bags.present[rows, order])
    predicted = model.predict(bags)
    np.testing.assert_allclose(model.predict(padded), predicted, atol=1e-5)
    np.testing.assert_allclose(model.predict(permuted), predicted, atol=1e-5)
    if name in OF_SPOTS:
        cells = cells_of(model, bags)
        np.testing.assert_allclose(cells_of(model, padded)[padded.present], cells[bags.present], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(cells_of(model, permuted), cells[rows, order], rtol=1e-4, atol=1e-5)


def test_bags_without_a_mask_have_all_cells(name, model, test):
    full = replace(test.bags, subspots=test.bags.subspots + np.float32(0.1), present=None)
    masked = replace(full, present=np.ones(full.subspots.shape[:2], dtype=bool))
    np.testing.assert_allclose(model.predict(full), model.predict(masked), atol=1e-5)
    if name in OF_SPOTS:
        np.testing.assert_allclose(cells_of(model, full), cells_of(model, masked), rtol=1e-4, atol=1e-5)


def test_some_rows(name, model, test):
    rows = np.array([150, 0, 7])
    np.testing.assert_allclose(model.predict(test.bags, rows=rows), model.predict(test.bags)[rows], atol=1e-5)
    if name in OF_SPOTS:
        some = cells_of(model, test.bags, rows=rows)
        np.testing.assert_allclose(some, cells_of(model, test.bags)[rows], rtol=1e-4, atol=1e-5)


def test_same_seed_same_prediction(name, model, train, test):
    predicted = model.predict(test.bags)
    again, other = (MODELS[name](seed=seed).fit(train.bags, train.expression).predict(test.bags) for seed in (0, 1))
    np.testing.assert_array_equal(again, predicted)
    assert np.abs(other - predicted).max() > 0.01


def test_rows_choose_the_spots_and_may_repeat(name, train, test):
    spoiled = train.expression.copy()
    spoiled[150:] = 9.0
    spoiled[:, 0] = np.nan
    spoiled[:50, 1] = np.nan
    rows = np.concatenate([np.arange(150), np.arange(0, 150, 2)])
    predicted = MODELS[name]().fit(train.bags, spoiled, rows=rows).predict(test.bags)
    assert np.isfinite(predicted).all()
    assert predicted.max() < 8
    assert pearson(predicted[:, 1:], test.expression[:, 1:]).mean() > 0.5


def test_the_number_of_epochs_comes_from_patients_that_are_held_out(name, train):
    patients = np.repeat(["a", "b", "c", "d"], 50)
    make = partial(MODELS[name], max_epochs=6, patience=2)
    found = make().fit(train.bags, train.expression, slides=patients, patients=patients)
    same = make(epochs=found.n_epochs).fit(train.bags, train.expression)
    assert same.n_epochs == found.n_epochs
    np.testing.assert_array_equal(found.predict(train.bags), same.predict(train.bags))
    # r of noise does not keep rising, so that the search ends early.
    noise = np.random.default_rng(0).permuted(train.expression, axis=0)
    assert make(max_epochs=60).fit(train.bags, noise, slides=patients, patients=patients).n_epochs < 58


def test_half_precision_is_accepted(name, train):
    half = replace(train.bags, spot=train.bags.spot.astype(np.float16), subspots=train.bags.subspots.astype(np.float16))
    predicted = MODELS[name](epochs=1).fit(half, train.expression).predict(half)
    assert predicted.dtype == np.float32
    assert np.isfinite(predicted).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cell_sum", {"width": 0}, "`width` must be"),
        ("cell_sum", {"lr": -1.0}, "`lr` must be"),
        ("cell_sum", {"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0"),
        ("cell_sum", {"scale": "standardized"}, "'standardized'"),
        ("deepcell", {"loss": "median"}, "'median'"),
        ("deepcell", {"aggregation": "min"}, "'min'"),
        ("deepspot2cell", {"n_ensemble": 0}, "`n_ensemble` must be"),
    ],
)
def test_wrong_parameters(name, options, message, train):
    with pytest.raises((ValueError, KeyError), match=message):
        MODELS[name](**options).fit(train.bags, train.expression)


def test_bags_that_do_not_fit(name, model, train):
    narrow = replace(train.bags, spot=train.bags.spot[:, :3], subspots=train.bags.subspots[..., :3])
    with pytest.raises(ValueError, match="takes embeddings of length 10, got 3"):
        model.predict(narrow)
    with pytest.raises(ValueError, match="No training spot has a measured gene"):
        MODELS[name]().fit(train.bags, np.full_like(train.expression, np.nan))
    if name in OF_SPOTS:
        without = replace(train.bags, subspots=None, present=None)
        with pytest.raises(ValueError, match=f"{type(model).__name__} sees cells as the sub-spots of a spot"):
            MODELS[name]().fit(without, train.expression)
        empty = replace(train.bags, subspots=0 * train.bags.subspots, present=np.zeros_like(train.bags.present))
        with pytest.raises(ValueError, match="No training spot has a cell"):
            MODELS[name]().fit(empty, train.expression)
    with pytest.raises(ValueError, match=f"{type(model).__name__} is not fitted yet"):
        MODELS[name]().predict(train.bags)


@pytest.mark.slow
def test_cross_validation_by_name(slides, cheap_encoder):
    small = {"width": [16], "max_epochs": [2], "epochs": [2]}
    more = {"n_ensemble": [2]}
    cv = ds.models.cross_validate(
        slides,
        patient_key="patient",
        models=list(MODELS),
        grid={"cell_sum": small, "deepspot2cell": small | more, "deepcell": small | more},
        genes=5,
        encoder=cheap_encoder,
    )
    assert {*MODELS} <= set(cv.summary().index)
