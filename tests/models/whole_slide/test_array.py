import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepspot._spatial.geometry import spot_grid
from deepspot.models._whole_slide.array import columns_and_rows, nearest_spots, split_slide, window


def square(n_rows: int, n_cols: int, pitch: float = 200.0) -> np.ndarray:
    row, column = np.divmod(np.arange(n_rows * n_cols), n_cols)
    return pitch * np.column_stack([column, row])


@pytest.mark.parametrize("layout", ["square", "hexagonal"])
@pytest.mark.parametrize("turned", [False, True])
def test_columns_and_rows_are_those_of_the_array(layout, turned):
    centers, array = spot_grid(1500, 1300, 100.0, 0.0, layout)
    expected = array[:, ::-1] - array[:, ::-1].min(axis=0)  # column first
    position = centers - centers.mean(axis=0)
    if turned:
        position, expected = position[:, ::-1], expected[:, ::-1]
    np.testing.assert_array_equal(columns_and_rows(position), expected)


def test_a_shifted_section_has_the_same_columns_and_rows():
    np.testing.assert_array_equal(columns_and_rows(square(4, 6) + 1e4), columns_and_rows(square(4, 6)))


def test_a_single_spot():
    one = np.array([[5.0, 7.0]])
    assert columns_and_rows(one).tolist() == [[0, 0]]
    assert nearest_spots(one, 4, 2.0).tolist() == [[0], [0]]
    assert window(one, 5).tolist() == [[-1] * 12 + [0] + [-1] * 12]


@given(
    array=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=200),
    max_spots=st.integers(1, 50),
    n_pos=st.integers(1, 80),
)
def test_parts_are_small_and_have_every_spot_once(array, max_spots, n_pos):
    parts = split_slide(np.array(array), max_spots, n_pos)
    assert sorted(np.concatenate(parts)) == list(range(len(array)))
    for spots in parts:
        assert len(spots) <= max_spots
        assert np.ptp(np.array(array)[spots], axis=0).max() < n_pos


def test_a_slide_within_the_limits_is_one_part():
    assert [len(part) for part in split_slide(columns_and_rows(square(10, 20)), 200, 20)] == [200]
    assert [len(part) for part in split_slide(columns_and_rows(square(10, 20)), 200, 19)] == [100, 100]


def test_the_four_nearest_spots():
    spot, neighbor = nearest_spots(square(5, 5), 4, 2.0)
    assert sorted(neighbor[spot == 12]) == [7, 11, 13, 17]
    assert not (spot == neighbor).any()
    assert np.bincount(spot).max() == 4


def test_spots_without_neighbors_are_their_own():
    position = np.concatenate([square(3, 3), [[1e5, 1e5]]])
    spot, neighbor = nearest_spots(position, 4, 2.0)
    assert neighbor[spot == 9].tolist() == [9]
    assert 9 not in neighbor[spot != 9]


def test_two_spots_at_one_place_are_neighbors():
    position = np.concatenate([square(4, 4), square(4, 4)[:2]])
    spot, neighbor = nearest_spots(position, 4, 2.0)
    assert not (spot == neighbor).any()
    assert 16 in neighbor[spot == 0]
    assert np.bincount(spot).max() == 4


def test_the_window_has_the_places_around_a_spot():
    found = window(square(6, 7) + np.random.default_rng(0).normal(scale=5, size=(42, 2)), 5)
    assert found[16].reshape(5, 5).tolist() == [[7 * row + column for column in range(5)] for row in range(5)]
    assert found[0].reshape(5, 5)[:2].tolist() == [[-1] * 5] * 2
    np.testing.assert_array_equal(found[:, 12], np.arange(42))
