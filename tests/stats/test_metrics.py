import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_matrix

from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors
from deepspot._stats.metrics import lee, moran, pearson, rmse, spearman

SIDE = 15
GRID = np.column_stack([axis.ravel() for axis in np.meshgrid(np.arange(SIDE), np.arange(SIDE))]).astype(float)
QUEEN = find_neighbors(GRID, NeighborRule(reach=1.5))
NOBODY = csr_matrix((SIDE**2, SIDE**2), dtype=bool)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(SIDE**2, 5))
    measured = np.round(predicted + rng.normal(size=predicted.shape))  # with ties
    measured[rng.random(measured.shape) < 0.1] = np.nan
    return predicted, measured


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (pearson, lambda a, b: stats.pearsonr(a, b).statistic),
        (spearman, lambda a, b: stats.spearmanr(a, b).statistic),
        (rmse, lambda a, b: np.sqrt(np.mean((a - b) ** 2))),
    ],
)
def test_correlations_equal_scipy_on_shared_spots(pair, ours, theirs):
    predicted, measured = pair
    wanted = []
    for a, b in zip(predicted.T, measured.T, strict=True):
        known = np.isfinite(b)
        wanted.append(theirs(a[known], b[known]))
    np.testing.assert_allclose(ours(predicted, measured), wanted)


@pytest.mark.parametrize("metric", [pearson, spearman, lambda a, b: lee(a, b, QUEEN)])
def test_undefined_where_nothing_varies_or_nothing_is_known(pair, metric):
    predicted, measured = (np.nan_to_num(part) for part in pair)
    predicted[:, 0] = 3
    measured[:, 1] = 3
    measured[:, 2] = np.nan
    values = metric(predicted, measured)
    assert np.isnan(values[:3]).all()
    assert np.isfinite(values[3:]).all()


def test_no_error_where_nothing_is_known():
    values = rmse(np.ones((3, 2)), np.array([[np.nan, 2], [np.nan, 2], [np.nan, np.nan]]))
    np.testing.assert_array_equal(values, [np.nan, 1])


@quickly(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), factor=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_invariants(seed, factor, shift):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, SIDE**2, 3))
    for metric in (pearson, spearman, lambda a, b: lee(a, b, QUEEN)):
        value = metric(a, b)
        np.testing.assert_allclose(metric(b, a), value, atol=1e-9)
        np.testing.assert_allclose(metric(factor * a + shift, b), value, atol=1e-9)
        np.testing.assert_allclose(metric(-a, b), -value, atol=1e-9)
        assert (np.abs(value) <= 1).all()
    np.testing.assert_allclose(spearman(np.exp(a), b), spearman(a, b))
    np.testing.assert_allclose(lee(a, b, NOBODY), pearson(a, b))
    order = rng.permutation(SIDE**2)
    np.testing.assert_allclose(lee(a[order], b[order], QUEEN[order][:, order]), lee(a, b, QUEEN))


def test_lee_follows_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, SIDE**2, 1))
    weights = QUEEN.toarray() + np.eye(SIDE**2)
    weights /= weights.sum(axis=1, keepdims=True)
    x, y = (part[:, 0] - part.mean() for part in (a, b))
    wanted = len(x) / (weights.sum(axis=1) ** 2).sum() * (weights @ x) @ (weights @ y) / np.sqrt((x @ x) * (y @ y))
    assert lee(a, b, QUEEN)[0] == pytest.approx(wanted)


def test_moran_follows_its_definition():
    weights = QUEEN.toarray().astype(float)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
    values = np.random.default_rng(0).normal(size=(len(weights), 3))
    values[:, 2] = 1  # does not vary
    centered = values - values.mean(axis=0)
    cross = np.einsum("ig,ij,jg->g", centered, weights, centered)
    wanted = len(weights) / weights.sum() * cross[:2] / (centered**2).sum(axis=0)[:2]
    found = moran(values, QUEEN)
    np.testing.assert_allclose(found[:2], wanted)
    assert np.isnan(found[2])


def test_lee_is_low_for_noise():
    """The same r: once from a wide pattern that both share, once from noise that they share spot by spot."""
    rng = np.random.default_rng(0)
    wide, own, other = np.sin(GRID[:, 0] / 2)[:, None], *rng.normal(size=(2, SIDE**2, 1))
    pattern = (wide, wide + 0.3 * own)
    noise = (own, own + 0.4 * other)
    assert min(pearson(*pattern)[0], pearson(*noise)[0]) > 0.9
    assert lee(*pattern, QUEEN)[0] > 0.7
    assert lee(*noise, QUEEN)[0] < 0.3
