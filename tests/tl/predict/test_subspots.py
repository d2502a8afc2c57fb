import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepspot._features.bags import Bags
from deepspot._spatial.geometry import Geometry, NeighborRule, TileGeometry
from deepspot._spatial.neighbors import find_neighbors
from deepspot._stats.metrics import pearson
from deepspot.models import DeepSpot, Ridge
from deepspot.models._confidence.gate import Gate
from deepspot.tl._predict.resolution import conserve, subspot_expression
from deepspot.tl._predict.table import predict_in_blocks

GEOMETRY = Geometry(tile=TileGeometry(tile_um=55, input_px=32), neighbors=NeighborRule(reach=150))
DEFAULT = {"network": {"width": 16, "members": 2}}
ENSEMBLES = {"network": {"width": 16, "n_phi": 3, "n_rho": 2}}
CONFIGS = {
    "network": ({**DEFAULT}, 1.0),
    "blend": ({**DEFAULT}, 0.5),
    "ridge": ({**DEFAULT}, 0.0),
    "paper": ({"preset": "paper", **ENSEMBLES}, 1.0),
    "published": ({"preset": "published", **ENSEMBLES}, 1.0),
}


def make_bags(side=8, genes=5):
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(side**2), side)
    centers = np.column_stack([col, row]) * 100.0
    spot = rng.normal(size=(side**2, 12)).astype(np.float32)
    parts = (spot[:, None] + rng.normal(size=(side**2, 9, 12))).astype(np.float16)
    bags = Bags(spot, parts, find_neighbors(centers, NeighborRule(reach=150)), centers.astype(np.float32))
    weights = rng.normal(size=(12, genes))
    return bags, np.maximum(parts.astype(np.float32).mean(axis=1) @ weights / 3 + 1, 0).astype(np.float32)


BAGS, TARGETS = make_bags()


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    options, weight = CONFIGS[request.param]
    fitted = DeepSpot(**options, training={"gate": "off", "epochs": 2, "max_epochs": 2}, seed=0).fit(BAGS, TARGETS)
    if weight < 1:
        fitted.ridge = Ridge(alphas=[100.0], clip=None).fit(BAGS, TARGETS)
    gate = Gate.model_construct(weight=weight)
    fitted.card = fitted.card.model_copy(update={"geometry": GEOMETRY, "gate": gate})
    return fitted


def test_one_subspot_counts_as_nine_that_are_like_it(model):
    for k in (0, 4):
        one = BAGS.subspots[:, [k]]
        nine = model.predict(replace(BAGS, subspots=np.repeat(one, 9, axis=1)))
        np.testing.assert_allclose(model.predict(replace(BAGS, subspots=one)), nine, atol=1e-5)
        assert np.abs(nine - model.predict(BAGS)).max() > 0.02


def test_before_they_are_scaled_subspots_average_to_the_spot_on_the_log_scale(model):
    # The pooling, ρ and ridge are linear, so this tests the scale of the pooled set exactly.
    alone = [model.predict(replace(BAGS, subspots=BAGS.subspots[:, [k]])) for k in range(9)]
    np.testing.assert_allclose(np.mean(alone, axis=0), model.predict(BAGS), atol=1e-5)


def test_subspots_average_to_the_spot_on_counts(model):
    children = subspot_expression(model, BAGS, device="cpu")
    assert children.shape == (64, 9, 5)
    assert children.dtype == np.float32
    assert children.min() >= 0
    spot = np.expm1(np.maximum(model.predict(BAGS), 0))
    np.testing.assert_allclose(np.expm1(children).mean(axis=1), spot, rtol=1e-5, atol=1e-6)
    assert np.median(np.ptp(children, axis=1)) > 0.05


def conserved(children, parents):
    """Scale children (n, s, genes) to parents (n, genes)."""
    n, s = children.shape[:2]
    flat = children.reshape(n * s, -1).copy()
    conserve(flat, parents, np.repeat(np.arange(n), s))
    return flat.reshape(n, s, -1)


def test_each_subspot_is_predicted_from_its_own_embedding(model):
    children = subspot_expression(model, BAGS, device="cpu")
    alone = np.stack([model.predict(replace(BAGS, subspots=BAGS.subspots[:, [k]])) for k in range(9)], axis=1)
    np.testing.assert_allclose(children, conserved(alone, model.predict(BAGS)), atol=1e-5)


def test_blocks_change_nothing(model):
    for bags in (BAGS, replace(BAGS, position=None)):
        whole, parts = (subspot_expression(model, bags, device="cpu", block_size=rows) for rows in (1000, 13))
        np.testing.assert_allclose(parts, whole, atol=1e-5)
        np.testing.assert_allclose(
            predict_in_blocks(model, bags, device="cpu", block_size=13), model.predict(bags), atol=1e-5
        )


def test_a_single_block_equals_the_prediction_of_the_model(model):
    np.testing.assert_array_equal(predict_in_blocks(model, BAGS, device="cpu"), model.predict(BAGS))


def test_memory_is_that_of_the_result_and_a_block():
    bags, targets = make_bags(side=30, genes=400)
    model = DeepSpot(**DEFAULT, training={"gate": "off", "epochs": 1}, seed=0).fit(bags, targets)
    model.card = model.card.model_copy(update={"geometry": GEOMETRY})
    subspot_expression(model, BAGS, device="cpu")  # without the imports of the first call
    tracemalloc.start()
    try:
        children = subspot_expression(model, bags, device="cpu", block_size=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * children.nbytes


log_expression = st.floats(-2, 12, width=32)


@settings(max_examples=200, deadline=None)
@given(
    children=arrays(np.float32, (3, 9, 2), elements=log_expression | st.just(0.0) | st.floats(0, 2.0**-100, width=32)),
    parents=arrays(np.float32, (3, 2), elements=log_expression | st.just(0.0)),
)
def test_mass_is_conserved(children, parents):
    scaled = conserved(children, parents)
    assert scaled.dtype == np.float32
    assert np.isfinite(scaled).all()
    assert scaled.min() >= 0
    whole = np.expm1(np.maximum(parents, 0).astype(np.float64))
    np.testing.assert_allclose(np.expm1(scaled.astype(np.float64)).mean(axis=1), whole, rtol=2e-5, atol=1e-9)
    # The order of the sub-spots is the same.
    order = np.argsort(np.maximum(children, 0), axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(scaled, order, axis=1), axis=1) >= 0).all()


def test_subspots_of_zeros_get_the_value_of_their_spot():
    children = np.full((2, 9, 2), -1.0, np.float32)
    children[1, 3, 0] = 1.0
    scaled = conserved(children, np.array([[2.0, 0.0], [0.5, -3.0]], np.float32))
    np.testing.assert_allclose(scaled[0, :, 0], 2.0, rtol=1e-6)
    assert not scaled[:, :, 1].any()
    assert np.count_nonzero(scaled[1, :, 0]) == 1
    assert scaled[1, 3, 0] == pytest.approx(np.log1p(9 * np.expm1(0.5)), rel=1e-6)


def test_subspots_differ_like_the_tissue_in_them():
    # The targets are means over sub-spots: the model is not trained on single sub-spots.
    bags, _ = make_bags(side=20)
    truth = bags.subspots.astype(np.float32) @ np.random.default_rng(1).normal(size=(12, 5)).astype(np.float32) / 9 + 2
    options = {"network": {"width": 64, "members": 1}, "training": {"gate": "off", "epochs": 60, "lr": 1e-3}}
    fitted = DeepSpot(**options, seed=0).fit(bags, truth.mean(axis=1))
    fitted.card = fitted.card.model_copy(update={"geometry": GEOMETRY})
    children = subspot_expression(fitted, bags, device="cpu")
    within = [(values - values.mean(axis=1, keepdims=True)).reshape(-1, 5) for values in (children, truth)]
    assert pearson(*within).min() > 0.5
