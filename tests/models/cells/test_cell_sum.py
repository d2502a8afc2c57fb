from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from deepspot._stats.metrics import pearson
from deepspot.models import CellSum

QUICK = {"width": 32, "dropout": 0.1, "spots_per_step": 32, "epochs": 25, "lr": 3e-3, "seed": 0, "device": "cpu"}
make = partial(CellSum, **QUICK)


@pytest.fixture(scope="module")
def model(train):
    return make().fit(train.bags, train.expression)


@pytest.mark.parametrize("scale", ["log1p_10k", "log1p_cpm", "log1p_counts"])
def test_cells_and_background_add_up_to_the_spot(scale, train, test):
    factor = 100 if scale == "log1p_cpm" else 1
    model = make(scale=scale, epochs=3).fit(train.bags, np.log1p(factor * np.expm1(train.expression)))
    cells, background = model.predict_cells(test.bags)
    assert np.nanmin(cells) >= 0
    assert background.min() >= 0
    total = np.nansum(cells, axis=1, dtype=np.float64) + background
    np.testing.assert_allclose(total, np.expm1(model.predict(test.bags).astype(np.float64)), rtol=1e-6)


def test_the_level_of_cells_and_background(model, test):
    cells, background = model.predict_cells(test.bags)
    np.testing.assert_allclose(np.nanmean(cells, axis=(0, 1)), np.nanmean(test.cells, axis=(0, 1)), rtol=0.35)
    several = test.bags.present.sum(axis=1) > 2
    share = background[several].sum() / np.expm1(model.predict(test.bags)[several]).sum()
    assert 0 < share < 0.4


def test_a_spot_without_cells_is_all_background(model, test):
    empty = np.flatnonzero(~test.bags.present.any(axis=1))
    cells, background = model.predict_cells(test.bags, rows=empty)
    assert np.isnan(cells).all()
    np.testing.assert_allclose(np.log1p(background), model.predict(test.bags, rows=empty), rtol=1e-6)


@pytest.mark.parametrize("scale", ["log1p_10k", "log1p_counts"])
def test_the_prediction_starts_at_the_mean_expression(scale, train):
    model = make(scale=scale, epochs=1, lr=1e-9).fit(train.bags, train.expression)
    filled = train.bags.present.sum(axis=1) == 5
    np.testing.assert_allclose(model.predict(train.bags)[filled].mean(0), train.expression.mean(axis=0), atol=0.4)
    if scale == "log1p_10k":
        np.testing.assert_allclose(model.predict(train.bags).mean(axis=0), train.expression.mean(axis=0), atol=0.4)


def test_counts_grow_with_the_number_of_cells(train, test):
    def summed(tissue):
        return np.log1p(np.nansum(tissue.cells, axis=1) * tissue.bags.present.sum(axis=1, keepdims=True))

    model = make(scale="log1p_counts").fit(train.bags, summed(train))
    assert pearson(model.predict(test.bags), summed(test)).min() > 0.7
    once = replace(test.bags, subspots=test.bags.subspots[:, :1], present=test.bags.present[:, :1])
    twice = replace(test.bags, subspots=np.repeat(once.subspots, 2, 1), present=np.repeat(once.present, 2, 1))
    (one, _), (two, _) = model.predict_cells(once), model.predict_cells(twice)
    np.testing.assert_allclose(two.sum(axis=1), 2 * one[:, 0], rtol=1e-5)
    # On a scale per total counts, two equal cells are as one.
    share = make(epochs=2).fit(train.bags, train.expression)
    filled = once.present[:, 0]
    np.testing.assert_allclose(share.predict(twice)[filled], share.predict(once)[filled], atol=1e-5)


def test_on_a_scale_per_total_counts_rates_are_divided_by_the_number_of_cells(model, train, test, r_within):
    """The numbers are those in the documentation: without the division, spots and cells are predicted worse."""
    plain = make(scale="log1p_counts").fit(train.bags, train.expression)
    found = []
    for each in (model, plain):
        (cells, background), predicted = each.predict_cells(test.bags), each.predict(test.bags)
        share = (background / np.expm1(predicted)).mean()
        found.append((r_within(cells, test.cells).mean(), share, pearson(predicted, test.expression).mean()))
    assert found[0][0] == pytest.approx(0.97, abs=0.02)
    assert found[1][0] == pytest.approx(0.89, abs=0.03)
    assert found[0][1] == pytest.approx(0.10, abs=0.05)
    assert found[1][1] == pytest.approx(0.63, abs=0.1)
    assert found[0][2] > found[1][2] + 0.05


def test_a_gene_that_is_never_seen(train):
    targets = train.expression.copy()
    targets[:, 2] = 0
    model = make(epochs=2).fit(train.bags, targets)
    assert (model.predict(train.bags)[:, 2] == 0).all()


def test_other_scales_are_refused(train):
    centered = train.expression - train.expression.mean(axis=0)
    with pytest.raises(ValueError, match="CellSum needs log1p of rates, which are not negative, but the lowest target"):
        make().fit(train.bags, centered)
    with pytest.raises(KeyError, match=r"'log2_counts'` not found in `scale`. Available keys: \['log1p_10k'"):
        make(scale="log2_counts").fit(train.bags, train.expression)
