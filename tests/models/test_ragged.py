"""Spots with different numbers of sub-spots: padding and order have no effect on any model."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors
from deepspot.models._cross_validation.folds import _bags_digest
from deepspot.models._inputs import context_features

N, DIM = 40, 6


def deepspot(**network):
    training = {"epochs": 2, "gate": "off", "pca": 4}
    return ds.models.DeepSpot(network={"width": 16, "members": 1, "dropout": 0.0} | network, training=training)


MODELS = {
    "mean": deepspot,
    "sum": partial(deepspot, subspot_pooling="sum", phi_average="median", n_phi=3),
    "ridge": ds.models.Ridge,
    "random_forest": partial(ds.models.RandomForest, n_trees=3, context=("subspots",)),
    "shuffled": partial(ds.models.ShuffledImages, factory=partial(ds.models.Ridge, alphas=(1.0,))),
    "triplex": partial(ds.models.TRIPLEX, dim=8, layers=(1, 1, 1), heads=(1, 1, 1), epochs=2, lr=1e-3),
}


def make_bags(sizes, seed=0) -> Bags:
    rng, n = np.random.default_rng(seed), len(sizes)
    present = np.arange(max(*sizes, 1)) < np.array(sizes)[:, None]
    subspots = np.where(present[..., None], rng.normal(size=(*present.shape, DIM)), 0).astype(np.float16)
    position = np.stack(np.divmod(np.arange(n), 8), axis=1) * 100.0
    neighbors = find_neighbors(position, NeighborRule(reach=101))
    spot = rng.normal(size=(n, DIM)).astype(np.float32)
    return Bags(spot, subspots, neighbors, position - position.mean(axis=0), present=present)


def more_padding(bags: Bags, columns: list[int]) -> Bags:
    """Insert absent sub-spots before these columns."""
    return replace(
        bags,
        subspots=np.insert(bags.subspots, columns, 0, axis=1),
        present=np.insert(bags.present, columns, False, axis=1),
    )


def permuted(bags: Bags, seed: int) -> Bags:
    """Permute the places of every set, present or not."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(bags.present.shape[1]), (len(bags), 1)), axis=1)
    rows = np.arange(len(bags))[:, None]
    return replace(bags, subspots=bags.subspots[rows, order], present=bags.present[rows, order])


@pytest.fixture(scope="module")
def bags():
    return make_bags(np.random.default_rng(1).integers(0, 6, N))


@pytest.fixture(scope="module")
def targets(bags):
    return np.column_stack([bags.subspots.sum(axis=1)[:, :2], bags.spot[:, 0]]).astype(np.float32)


@pytest.fixture(scope="module", params=MODELS)
def fitted(request, bags, targets):
    return request.param, MODELS[request.param]().fit(bags, targets)


def test_padding_and_order_have_no_effect_on_a_prediction(fitted, bags):
    _, model = fitted
    predicted = model.predict(bags)
    assert np.isfinite(predicted).all()
    for same in (more_padding(bags, [0, 3, 5]), permuted(bags, 0), permuted(more_padding(bags, [2]), 1)):
        np.testing.assert_allclose(model.predict(same), predicted, atol=2e-5)
    changed = replace(bags, subspots=np.where(bags.present[..., None], bags.subspots + np.float16(1), 0))
    assert np.abs(model.predict(changed) - predicted).max() > 1e-4


def test_padding_has_no_effect_on_a_fit(fitted, bags, targets):
    name, model = fitted
    again = MODELS[name]().fit(more_padding(bags, [0, 3, 5]), targets)
    np.testing.assert_allclose(again.predict(bags), model.predict(bags), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=2, max_size=9), columns=st.lists(st.integers(0, 1)), seed=st.integers(0)
)
def test_context_features_are_those_of_the_present(sizes, columns, seed):
    bags = make_bags(sizes, seed)
    found = context_features(permuted(more_padding(bags, columns), seed), ("subspots",))
    for row, size in enumerate(sizes):
        mean = bags.subspots[row, :size].astype(np.float32).mean(axis=0) if size else np.zeros(DIM)
        np.testing.assert_allclose(found[row], mean, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_the_network_sees_each_spot_as_if_its_set_were_all(pooling, bags, targets):
    """A spot with k sub-spots is predicted as in bags in which every spot has k."""
    model = deepspot(subspot_pooling=pooling).fit(bags, targets)
    predicted = model.predict(bags)
    for row in range(10):
        size = int(bags.present[row].sum())
        if size:
            alone = replace(bags, subspots=bags.subspots[:, :size], present=None)
            np.testing.assert_allclose(model.predict(alone)[row], predicted[row], atol=1e-5)
    # The pooled set of a spot without sub-spots is 0, whatever it is padded with.
    empty = np.flatnonzero(~bags.present.any(axis=1))
    none = replace(bags, subspots=bags.subspots[:, :0], present=bags.present[:, :0])
    np.testing.assert_allclose(model.predict(none)[empty], predicted[empty], atol=1e-5)


def test_all_present_is_the_same_as_no_mask(bags, targets):
    whole = replace(bags, subspots=np.random.default_rng(0).normal(size=(N, 4, DIM)).astype(np.float32), present=None)
    masked = replace(whole, present=np.ones((N, 4), dtype=bool))
    for make in MODELS.values():
        first, second = (make().fit(same, targets).predict(same) for same in (masked, whole))
        np.testing.assert_allclose(first, second, atol=1e-3)


def test_the_digest_of_bags_depends_on_what_is_present(bags):
    before = _bags_digest(bags)
    assert _bags_digest(replace(bags)) == before
    # A sub-spot whose embedding is 0 exists or not.
    place = tuple(np.argwhere(~bags.present)[0])
    other = bags.present.copy()
    other[place] = True
    assert _bags_digest(replace(bags, present=other)) != before
