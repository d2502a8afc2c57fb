import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import NeighborFinder, find_neighbors, padded, select_columns


def square(n, pitch=100.0):
    row, col = (axis.ravel() for axis in np.mgrid[:n, :n])
    return np.column_stack([col, row]) * pitch, np.column_stack([row, col])


def of(neighbors, spot):
    return neighbors[spot].indices.tolist()


def test_radius_includes_its_border():
    xy, _ = square(3)
    neighbors = find_neighbors(xy, NeighborRule(reach=100))
    assert of(neighbors, 4) == [1, 3, 5, 7]
    assert of(neighbors, 0) == [1, 3]
    assert neighbors.dtype == bool
    assert neighbors.shape == (9, 9)
    assert neighbors.diagonal().sum() == 0


def test_cap_keeps_the_nearest():
    xy, _ = square(3)
    assert of(find_neighbors(xy, NeighborRule(reach=150, cap=4)), 4) == [1, 3, 5, 7]
    assert of(find_neighbors(xy, NeighborRule(reach=150, cap=8)), 4) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_ties_go_to_the_smaller_index():
    xy, _ = square(3)
    assert of(find_neighbors(xy, NeighborRule(reach=100, cap=2)), 4) == [1, 3]


def test_box_uses_array_positions_only():
    _, array = square(5)
    anywhere = np.random.default_rng(0).random((25, 2))
    neighbors = find_neighbors(anywhere, NeighborRule(kind="box", reach=1), array)
    assert sorted(of(neighbors, 12)) == [6, 7, 8, 11, 13, 16, 17, 18]
    wide = find_neighbors(anywhere, NeighborRule(kind="box", reach=2, cap=100), array)
    assert len(of(wide, 12)) == 24
    assert len(of(wide, 0)) == 8


def test_box_requires_array_positions():
    with pytest.raises(ValueError, match="no array positions: add columns 'array_row' and 'array_col'"):
        find_neighbors(np.zeros((2, 2)), NeighborRule(kind="box", reach=1))


def test_isolated_spot_has_no_neighbors():
    neighbors = find_neighbors(np.array([[0, 0], [10, 0], [1000, 0.0]]), NeighborRule(reach=50))
    assert [of(neighbors, spot) for spot in range(3)] == [[1], [0], []]


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_spots_for_neighbors(n):
    neighbors = find_neighbors(np.zeros((n, 2)), NeighborRule(reach=50))
    assert neighbors.shape == (n, n)
    assert neighbors.nnz == 0
    assert padded(neighbors).shape == (n, 0)


STEPS = st.sampled_from([None, 10.0, 50.0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(1, 100), st.integers(1, 10), STEPS)
def test_equals_brute_force(seed, n, reach, cap, step):
    xy = np.random.default_rng(seed).uniform(0, 100, (n, 2))
    if step is not None:  # many are equally far, and some in the same place
        xy = np.round(xy / step) * step
    distance = np.linalg.norm(xy[:, None] - xy, axis=-1)
    neighbors = find_neighbors(xy, NeighborRule(reach=reach, cap=cap))
    for spot in range(n):
        order = np.argsort(distance[spot], kind="stable")
        near = [other for other in order if other != spot and distance[spot, other] <= reach]
        assert sorted(of(neighbors, spot)) == sorted(near[:cap])


def test_equals_the_radius_graph_of_squidpy():
    from anndata import AnnData
    from squidpy import gr

    points = np.random.default_rng(0).uniform(0, 1000, (200, 2))
    adata = AnnData(np.zeros((200, 1)), obsm={"spatial": points})
    if hasattr(gr, "spatial_neighbors_radius"):
        gr.spatial_neighbors_radius(adata, radius=120.0)
    else:  # squidpy 1.8.0
        gr.spatial_neighbors(adata, coord_type="generic", radius=120.0)
    graph = find_neighbors(points, NeighborRule(reach=120, cap=200))
    assert (graph != adata.obsp["spatial_connectivities"].astype(bool)).nnz == 0


def test_padded():
    dense = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(padded(csr_matrix(dense)), [[1, 2], [-1, -1], [0, -1]])


def test_finder_agrees_with_find_neighbors():
    xy = np.random.default_rng(0).uniform(0, 100, (40, 2))
    for rule, array in ((NeighborRule(reach=20, cap=3), None), (NeighborRule(kind="box", reach=9), xy.round())):
        everyone = find_neighbors(xy, rule, array)
        some = np.array([7, 3, 39])
        assert (NeighborFinder(xy, rule, array).of(some) != everyone[some]).nnz == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_select_columns(seed):
    rng = np.random.default_rng(seed)
    neighbors = csr_matrix(rng.random((6, 40)) < 0.2)
    columns = rng.permutation(40)[: rng.integers(1, 40)]
    found = select_columns(neighbors, columns)
    assert found.shape == (6, len(columns))
    assert found.has_sorted_indices
    np.testing.assert_array_equal(found.toarray(), neighbors[:, columns].toarray())
