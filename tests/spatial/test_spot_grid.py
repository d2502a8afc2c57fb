import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from deepspot._spatial.geometry import LAYOUTS, NeighborRule, spot_grid
from deepspot._spatial.neighbors import find_neighbors

SIDE, DISTANCE = st.floats(1, 60), st.floats(5, 120)
SIZE = st.floats(60, 900)
layouts = st.sampled_from(LAYOUTS)


@settings(max_examples=60, deadline=None)
@given(SIZE, SIZE, DISTANCE, SIDE, layouts)
def test_tiles_are_inside_and_centered(width, height, distance, side, layout):
    centers, _ = spot_grid(width, height, distance, side, layout)
    low, high = centers.min(axis=0) - side / 2, centers.max(axis=0) + side / 2
    tolerance = 2e-6 * distance
    assert (low >= -tolerance).all()
    assert (high <= np.array([width, height]) + tolerance).all()
    np.testing.assert_allclose(low[1], height - high[1], atol=1e-6)
    if layout == "square":
        np.testing.assert_allclose(low[0], width - high[0], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(SIZE, SIZE, DISTANCE, layouts)
def test_nearest_spots_are_at_the_given_distance(width, height, distance, layout):
    centers, _ = spot_grid(width, height, distance, 1, layout)
    inner = (np.abs(centers - (width / 2, height / 2)) < np.array([width, height]) / 2 - 1.5 * distance).all(axis=1)
    nearest, _ = cKDTree(centers).query(centers[inner], k=8)
    ring = {"square": 4, "hexagonal": 6}[layout]
    np.testing.assert_allclose(nearest[:, 1 : ring + 1], distance, rtol=1e-9)
    assert (nearest[:, ring + 1] > 1.4 * distance).all()


@settings(max_examples=40, deadline=None)
@given(SIZE, SIZE, DISTANCE, layouts)
def test_array_positions_are_unique_and_start_at_zero(width, height, distance, layout):
    centers, array = spot_grid(width, height, distance, 1, layout)
    assert array.min() == 0
    assert array.dtype == np.int64
    assert len(np.unique(array, axis=0)) == len(array) == len(centers)
    np.testing.assert_array_equal(array, array[np.lexsort((array[:, 1], array[:, 0]))])


def test_square_example():
    centers, array = spot_grid(100, 60, 40, 20, "square")
    np.testing.assert_allclose(centers, [[10, 10], [50, 10], [90, 10], [10, 50], [50, 50], [90, 50]])
    np.testing.assert_array_equal(array, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])


def test_hexagonal_layout_is_numbered_as_visium():
    centers, array = spot_grid(100, 20 + 40 * np.sqrt(3), 40, 20, "hexagonal")
    np.testing.assert_array_equal(array, [[0, 0], [0, 2], [0, 4], [1, 1], [1, 3], [2, 0], [2, 2], [2, 4]])
    np.testing.assert_allclose(centers[:5, 0], [10, 50, 90, 30, 70])
    np.testing.assert_allclose(np.unique(centers[:, 1]), 10 + np.arange(3) * 20 * np.sqrt(3))


def test_a_box_of_two_steps_contains_the_six_nearest():
    centers, array = spot_grid(600, 600, 40, 20, "hexagonal")
    inner = np.flatnonzero((np.abs(centers - 300) < 200).all(axis=1))
    _, six = cKDTree(centers).query(centers[inner], k=7)
    box = find_neighbors(centers, NeighborRule(kind="box", reach=2, cap=6), array.astype(float))
    one = find_neighbors(centers, NeighborRule(kind="box", reach=1), array.astype(float))
    for spot, near in zip(inner, six, strict=True):
        assert set(box[spot].indices) == set(near) - {spot}
        assert len(one[spot].indices) == 4  # as docs/geometry.md says of Visium's numbering
        assert set(one[spot].indices) < set(near)


def test_grid_is_independent_of_the_unit():
    whole, array = spot_grid(10_000, 7_000, 400, 220, "hexagonal")
    half, same = spot_grid(5_000, 3_500, 200, 110, "hexagonal")
    np.testing.assert_allclose(half * 2, whole)
    np.testing.assert_array_equal(array, same)


def test_rounding_removes_no_row():
    assert len(spot_grid(0.3, 0.3, 0.1, 0.1, "square")[0]) == 9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_tile_fits(layout):
    centers, array = spot_grid(30, 200, 10, 31, layout)
    assert centers.shape == array.shape == (0, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_tile_fits_exactly(layout):
    centers, array = spot_grid(31, 31, 10, 31, layout)
    np.testing.assert_allclose(centers, [[15.5, 15.5]])
    np.testing.assert_array_equal(array, [[0, 0]])
