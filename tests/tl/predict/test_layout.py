import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspot._spatial.geometry import NeighborRule, TileGeometry
from deepspot._spatial.neighbors import find_neighbors, padded
from deepspot._spatial.transforms import Placement
from deepspot.tl._predict.layout import grid_layout, grid_neighbors, subspot_layout

IMAGE = (4000, 4000)


def placed(centers, mpp=1.0):
    return Placement(np.asarray(centers, float), mpp, pd.Index([f"s{i}" for i in range(len(centers))]))


def square(n=5, pitch=100.0, start=500.0):
    row, col = np.divmod(np.arange(n * n), n)
    return np.column_stack([col, row]) * pitch + start


def hexagons(n=6, pitch=100.0, start=500.0):
    row, col = np.divmod(np.arange(n * n), n)
    return np.column_stack([(col + (row % 2) / 2) * pitch, row * pitch * np.sqrt(3) / 2]) + start


def test_subspots_are_thirds_of_the_tile_row_by_row_from_the_top_left():
    layout = subspot_layout(placed([[100, 200], [400, 200]], mpp=0.5), TileGeometry(tile_um=60, input_px=32))
    assert list(layout.parents) == [0] * 9 + [1] * 9
    assert list(layout.row[:9]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(layout.col[:9]) == [0, 1, 2] * 3
    x, y = layout.placement.centers[:9].T
    np.testing.assert_allclose(x, [60, 100, 140] * 3)  # 20 µm are 40 px
    np.testing.assert_allclose(y, [160] * 3 + [200] * 3 + [240] * 3)
    assert list(layout.placement.index[[0, 5, 17]]) == ["s0_0_0", "s0_1_2", "s1_2_2"]


@settings(max_examples=20, deadline=None)
@given(grid=st.integers(1, 12))
def test_names_of_subspots_are_unique(grid):
    layout = subspot_layout(placed(square(3)), TileGeometry(tile_um=60, input_px=32, grid=grid))
    assert layout.placement.index.is_unique


def test_a_grid_goes_through_the_spots_of_a_square_array():
    spots = placed(square())
    layout = grid_layout(spots, IMAGE, 55)
    centers = {tuple(center) for center in layout.placement.centers}
    assert layout.step == 25
    assert {tuple(center) for center in spots.centers} <= centers
    inside = np.all((layout.placement.centers >= 500) & (layout.placement.centers <= 900), axis=1)
    assert inside.sum() == 17**2  # no hole between spots
    np.testing.assert_array_equal(layout.row.min(), 0)
    np.testing.assert_array_equal(layout.col.min(), 0)
    steps = np.column_stack([layout.col, layout.row]) * layout.step
    assert np.ptp(layout.placement.centers - steps, axis=0).max() < 1e-9


def test_a_grid_stays_on_the_tissue_of_the_spots():
    from scipy.spatial import cKDTree

    spots = placed(np.concatenate([square(3), square(3, start=2000.0)]))
    layout = grid_layout(spots, IMAGE, 55)
    distance, nearest = cKDTree(spots.centers).query(layout.placement.centers)
    inside = np.any([np.all(np.abs(layout.placement.centers - at) <= 100, axis=1) for at in (600, 2100)], axis=0)
    assert inside.sum() == 2 * 9**2
    assert distance[~inside].max() <= 55 / 2
    np.testing.assert_allclose(
        np.linalg.norm(layout.placement.centers - spots.centers[layout.parents], axis=1), distance
    )
    assert set(nearest) == set(range(18))


def test_a_missing_spot_leaves_a_hole_except_between_its_neighbors():
    layout = grid_layout(placed(np.delete(square(), 12, axis=0)), IMAGE, 55)
    away = np.abs(layout.placement.centers - 700).sum(axis=1)
    in_spot = np.linalg.norm(layout.placement.centers - square()[np.arange(25) != 12][layout.parents], axis=1) < 55 / 2
    assert away[~in_spot].min() == 100
    assert (away == 100).sum() == 4 * 4


@pytest.mark.parametrize("spots", [[[500, 500], [600, 500]], [[500, 500], [570, 570], [640, 640], [710, 710]]])
def test_a_row_of_spots_has_no_points_between(spots):
    layout = grid_layout(placed(spots), IMAGE, 55)
    distance = np.linalg.norm(layout.placement.centers - np.array(spots)[layout.parents], axis=1)
    assert distance.max() <= 55 / 2
    assert set(layout.parents) == set(range(len(spots)))


def test_a_grid_stays_in_the_image():
    layout = grid_layout(placed(square(3, start=10.0)), (230, 215), 55)
    assert layout.placement.centers.min() >= 0
    assert np.all(layout.placement.centers.max(axis=0) <= (215, 230))


def test_a_grid_of_another_distance_and_its_limits():
    spots = placed(square(), mpp=0.5)
    assert grid_layout(spots, IMAGE, 55, grid_um=5).step == 10
    with pytest.raises(ValueError, match=r"half the distance between spots \(50 µm\)"):
        grid_layout(spots, IMAGE, 55, grid_um=30)
    with pytest.raises(ValueError, match="at least two spots"):
        grid_layout(placed([[100, 100]]), IMAGE, 55)


RULES = [
    (NeighborRule(reach=150), None, 8),
    (NeighborRule(reach=110), None, 4),
    (NeighborRule(reach=150, cap=3), None, 3),
    (NeighborRule(kind="box", reach=1), np.column_stack(np.divmod(np.arange(25), 5)), 8),
]


@pytest.mark.parametrize(("rule", "array", "count"), RULES)
def test_neighbors_of_grid_points_are_as_far_as_those_of_spots(rule, array, count):
    spots = placed(square())
    layout = grid_layout(spots, IMAGE, 55)
    known = find_neighbors(spots.centers, rule, array)
    near = grid_neighbors(layout, spots, known)
    assert near.shape == (len(layout.parents),) * 2
    assert not near.diagonal().any()
    centers = layout.placement.centers
    point = int(np.flatnonzero((centers == (725, 675)).all(axis=1))[0])
    offsets = centers[near[point].indices] - centers[point]
    assert len(offsets) == count
    assert set(map(tuple, np.abs(offsets))) <= {(100, 0), (0, 100), (100, 100)}

    # At the spots they are the neighbors of the spots.
    at = {tuple(center): i for i, center in enumerate(centers)}
    own = [at[tuple(center)] for center in spots.centers]
    np.testing.assert_array_equal(near[own][:, own].toarray(), known.toarray())
    assert near[own].sum() == known.sum()


def test_neighbors_on_hexagons_deviate_by_at_most_half_a_cell():
    spots = placed(hexagons())
    layout = grid_layout(spots, IMAGE, 55)
    near = grid_neighbors(layout, spots, find_neighbors(spots.centers, NeighborRule(reach=150)))
    inside = np.flatnonzero(np.all(np.abs(layout.placement.centers - spots.centers.mean(axis=0)) < 100, axis=1))
    indices = padded(near)[inside]
    assert (indices >= 0).sum(axis=1).tolist() == [6] * len(inside)
    distance = np.linalg.norm(layout.placement.centers[indices] - layout.placement.centers[inside][:, None], axis=2)
    assert np.abs(distance - 100).max() <= 0.71 * 25


def test_at_the_border_there_are_fewer_neighbors():
    spots = placed(square())
    layout = grid_layout(spots, IMAGE, 55)
    near = grid_neighbors(layout, spots, find_neighbors(spots.centers, NeighborRule(reach=150)))
    corner = int(np.flatnonzero((layout.placement.centers == 500).all(axis=1))[0])
    assert near[corner].sum() == 3
