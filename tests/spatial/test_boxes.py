import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spatialdata.models import Image2DModel

from deepspot._image.tiles import level_sizes, read_tiles
from deepspot._spatial.geometry import Boxes, TileGeometry, central, check_inside, make_boxes, split

PYRAMID = [(8000, 6000), (4000, 3000), (2000, 1500), (1000, 750)]


def middles(boxes):
    return boxes.corners[:, ::-1] + boxes.side / 2


@settings(max_examples=300, deadline=None)
@given(
    mpp=st.floats(0.1, 2.5),
    tile_um=st.floats(50, 300),
    grid=st.integers(1, 7),
    input_px=st.integers(8, 256),
    x=st.floats(0, 6000),
    y=st.floats(0, 8000),
)
def test_tiles_are_centered_and_divisible_into_subspots(mpp, tile_um, grid, input_px, x, y):
    boxes = make_boxes(np.array([[x, y]]), mpp, PYRAMID, TileGeometry(tile_um=tile_um, input_px=input_px, grid=grid))
    factor = 2**boxes.level
    assert boxes.side % grid == 0
    assert abs(boxes.side - tile_um / mpp / factor) <= grid / 2 + 1e-6
    assert np.abs(middles(boxes)[0] - np.array([x, y]) / factor).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("mpp", "input_px", "level", "side"),
    [
        (0.25, 224, 0, 219),  # a sub-spot has 73 px even at level 0
        (0.25, 73, 0, 219),
        (0.25, 36, 1, 111),
        (0.25, 37, 0, 219),
        (0.25, 9, 3, 27),
        (2.5, 224, 0, 21),
    ],
)
def test_level_shows_a_subspot_at_the_resolution_of_the_encoder(mpp, input_px, level, side):
    boxes = make_boxes(np.array([[3000.0, 4000.0]]), mpp, PYRAMID, TileGeometry(tile_um=55, input_px=input_px))
    assert (boxes.level, boxes.side) == (level, side)


def test_center_of_the_first_pixel():
    boxes = make_boxes(np.array([[0.5, 0.5], [10.5, 20.5]]), 1.0, [(90, 90)], TileGeometry(tile_um=21, input_px=9))
    assert boxes.side == 21
    assert boxes.corners.dtype == np.int64
    np.testing.assert_array_equal(boxes.corners, [[-10, -10], [10, 0]])


def test_levels_of_odd_sizes():
    sizes = [(1001, 20000), (500, 10000), (250, 5000)]
    boxes = make_boxes(np.array([[19990.0, 500.0]]), 0.25, sizes, TileGeometry(tile_um=55, input_px=10))
    assert boxes.level == 2
    assert np.abs(middles(boxes)[0] - [19990 / 4, 500 / 4]).max() <= 1


def test_coarse_level_shows_the_same_position():
    image = np.zeros((3, 1003, 1407), np.uint8)
    image[:, 900:930, 1300:1330] = 200
    pyramid = Image2DModel.parse(image, dims=("c", "y", "x"), scale_factors=[2, 2])
    levels = [pyramid[name]["image"] for name in pyramid]
    boxes = make_boxes(np.array([[1315.0, 915.0]]), 0.5, level_sizes(levels), TileGeometry(tile_um=60, input_px=9))
    assert boxes.level == 2
    _, tiles = next(read_tiles(levels[2], boxes, 1))
    weights = tiles[0, :, :, 0].astype(float)
    middle = [(weights.sum(axis=axis) * (np.arange(boxes.side) + 0.5)).sum() / weights.sum() for axis in (0, 1)]
    np.testing.assert_allclose(middle, boxes.side / 2, atol=1)


def test_too_coarse_images_are_refused():
    with pytest.raises(
        ValueError, match=r"image 'hires' is too coarse: a tile of 55 µm has 11\.0 px at 5 µm per pixel"
    ):
        make_boxes(np.array([[5.0, 5.0]]), 5.0, [(90, 90)], TileGeometry(tile_um=55, input_px=9), name="image 'hires'")


def test_centers_on_the_border_are_inside():
    check_inside(np.array([[0.0, 0.0], [80.0, 60.0]]), (60, 80), "image")


@pytest.mark.parametrize("spot", [(-0.1, 5), (80.1, 5), (5, -0.1), (5, 60.1)])
def test_centers_outside_are_refused(spot):
    with pytest.raises(ValueError, match=r"1 of 2 spots lie outside image \(80 × 60 px\), the first at x = "):
        check_inside(np.array([[10.0, 10.0], spot]), (60, 80), "image")


def test_swapped_coordinates_are_detected():
    with pytest.raises(ValueError, match=r"1 of 2 spots .* x = 10, y = 75\. With x and y swapped all are inside: swap"):
        check_inside(np.array([[10.0, 10.0], [10.0, 75.0]]), (60, 80), "image")


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 4), grid=st.integers(1, 5), cut=st.integers(1, 6))
def test_subspots_reassemble_the_tile(n, grid, cut):
    side = grid * cut
    tiles = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    parts = split(tiles, grid)
    assert parts.shape == (n * grid * grid, cut, cut, 3)
    again = np.zeros_like(tiles)
    for i, part in enumerate(parts):
        tile, at = divmod(i, grid * grid)
        row, col = divmod(at, grid)
        again[tile, row * cut : (row + 1) * cut, col * cut : (col + 1) * cut] = part
    np.testing.assert_array_equal(again, tiles)


@pytest.mark.parametrize(("grid", "cut"), [(1, 5), (3, 1), (3, 18), (5, 4), (7, 3)])
def test_central_subspot(grid, cut):
    tiles = np.random.default_rng(0).integers(0, 256, (4, grid * cut, grid * cut, 3), dtype=np.uint8)
    parts = split(tiles, grid).reshape(4, grid**2, cut, cut, 3)
    np.testing.assert_array_equal(central(tiles, grid), parts[:, grid**2 // 2])


def test_no_spots():
    boxes = make_boxes(np.empty((0, 2)), 1.0, [(90, 90)], TileGeometry(tile_um=30, input_px=9))
    assert boxes.corners.shape == (0, 2)
    assert isinstance(boxes, Boxes)
