import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from deepspot._spatial.geometry import NeighborRule, spot_grid
from deepspot._spatial.neighbors import NeighborFinder, array_layout, find_neighbors, padded, select_columns


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
    dense = NeighborRule(reach=30, pitch_um=20, layout="square")
    for rule, array in (
        (NeighborRule(reach=20, cap=3), None),
        (NeighborRule(kind="box", reach=9), xy.round()),
        (dense, None),
    ):
        everyone = find_neighbors(xy, rule, array)
        some = np.array([7, 3, 39])
        assert (NeighborFinder(xy, rule, array).of(some) != everyone[some]).nnz == 0


TRAINED = NeighborRule(reach=300, pitch_um=200, layout="square")
BOX = NeighborRule(kind="box", reach=1, pitch_um=200, layout="square")
VISIUM = NeighborRule(reach=150, pitch_um=100, layout="hexagonal")


def cells(pitch, seed=0):
    """Cells at random in a square of 1 mm, as many as in a square array of this pitch."""
    return np.random.default_rng(seed).uniform(0, 1000, (int(1e6 / pitch**2), 2))


def farther(centers, neighbors):
    """Number and distances of the neighbors of spots that are not near the border."""
    inside = np.flatnonzero(np.linalg.norm(centers - centers.mean(axis=0), axis=1) < 150)
    source, target = neighbors[inside].nonzero()
    return np.bincount(source, minlength=len(inside)), np.linalg.norm(centers[inside[source]] - centers[target], axis=1)


ARRAYS = {
    "square, half the pitch": square(11, 100.0)[0],
    "square, a quarter": square(21, 50.0)[0],
    "turned": square(21, 50.0)[0] @ [[0.8, 0.6], [-0.6, 0.8]],
    "hexagonal": spot_grid(1000, 1000, 55, 0, "hexagonal")[0],
    "bins": square(51, 20.0)[0],
    "cells": cells(12),
}


@pytest.mark.parametrize("rule", [TRAINED, BOX])
@pytest.mark.parametrize("centers", ARRAYS.values(), ids=ARRAYS)
def test_neighbors_in_a_dense_array_are_as_far_as_in_training(centers, rule):
    count, distance = farther(centers, find_neighbors(centers, rule, centers))
    assert set(count) == {8}
    assert distance.min() > 150
    np.testing.assert_allclose(distance.reshape(-1, 8).mean(axis=1), (200 + 200 * 2**0.5) / 2, atol=25)
    nearest = find_neighbors(centers, NeighborRule(reach=300))
    assert farther(centers, nearest)[1].mean() < 125


def test_neighbors_of_a_dense_array_surround_the_spot():
    xy, _ = square(11, 100.0)
    near = find_neighbors(xy, TRAINED)
    offsets = (xy[of(near, 60)] - xy[60]) / 200
    assert set(map(tuple, offsets)) == {(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)} - {(0, 0)}
    hexagonal, _ = spot_grid(1000, 1000, 50, 0, "hexagonal")
    count, distance = farther(hexagonal, find_neighbors(hexagonal, VISIUM))
    assert set(count) == {6}
    np.testing.assert_allclose(distance, 100)


@pytest.mark.parametrize("stretch", [0.96, 1.0, 1.04])
@pytest.mark.parametrize("jitter", [0, 5])
def test_an_array_of_the_trained_pitch_has_the_neighbors_of_the_rule(stretch, jitter, log):
    xy = square(8, 200.0 * stretch)[0] + np.random.default_rng(0).normal(0, jitter, (64, 2))
    plain = NeighborRule(reach=300)
    assert (find_neighbors(xy, TRAINED) != find_neighbors(xy, plain)).nnz == 0
    irregular = TRAINED.model_copy(update={"layout": None})  # such as cells: no array to compare with
    assert (find_neighbors(xy / 4, irregular) != find_neighbors(xy / 4, plain)).nnz == 0
    assert log == []


def test_a_coarser_array_has_its_nearest_neighbors(log):
    xy, _ = square(5, 400.0)
    near = find_neighbors(xy, TRAINED)
    assert set(of(near, 12)) >= {7, 11, 13, 17}
    assert find_neighbors(xy, NeighborRule(reach=300)).nnz == 0
    assert not near.diagonal().any()
    told = "The places are {} µm apart, and the spots of the training 200 µm: neighbors are {}"
    assert log == [told.format(400, "farther away than in training.")]
    find_neighbors(xy / 4, TRAINED)
    assert log[-1] == told.format(100, "the places at the distances of training.")


def test_at_the_border_and_in_holes_there_are_fewer_neighbors():
    xy, _ = square(11, 100.0)
    corner = find_neighbors(xy, TRAINED)[0]
    np.testing.assert_array_equal(xy[corner.indices], [[200, 0], [0, 200], [200, 200]])
    apart = np.concatenate([xy, [[5000, 5000], [5100, 5000.0]]])
    assert find_neighbors(apart, TRAINED)[-2:].nnz == 0
    alone = TRAINED.model_copy(update={"reach": 150})  # less than the pitch: no neighbors in training
    assert find_neighbors(xy, alone).nnz == 0


@pytest.mark.parametrize("angle", [0, 0.3])
def test_layout_of_spots(angle):
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for layout in ("hexagonal", "square"):
        centers = spot_grid(1000, 1000, 100, 0, layout)[0] @ turn
        assert array_layout(centers + np.random.default_rng(0).normal(0, 3, centers.shape)) == layout
    assert array_layout(cells(50)) is None


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
