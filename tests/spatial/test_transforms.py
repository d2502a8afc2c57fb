import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

import deepspot as ds
from deepspot._image.tiles import level_sizes, pyramid_levels, read_tiles
from deepspot._spatial.geometry import TileGeometry, make_boxes
from deepspot._spatial.transforms import (
    Placement,
    centers_px,
    circles_at,
    has_scale,
    microns_per_pixel,
    pitch_from_array,
    pitch_px,
    place_spots,
    write_scale,
)

WHITE = np.full((60, 80, 3), 255, np.uint8)
PIXELS = np.array([[10.5, 20.5], [70.5, 30.5], [40.5, 55.5]])


def rotation(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def move(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def scale(x, y):
    return np.diag([x, y, 1])


def apply(matrix, xy):
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def spots_that_land_on(pixels, image_to, spots_to):
    return apply(np.linalg.inv(spots_to) @ image_to, pixels)


similarities = st.builds(
    lambda degrees, factor, flip, x, y: move(x, y) @ rotation(degrees) @ scale(factor, -factor if flip else factor),
    st.floats(0, 360),
    st.floats(0.05, 20),
    st.booleans(),
    st.floats(-1e4, 1e4),
    st.floats(-1e4, 1e4),
)


@settings(max_examples=25, deadline=None)
@given(image_to=similarities, spots_to=similarities)
def test_centers_for_any_pair_of_transformations(slide_of, image_to, spots_to):
    spots = spots_that_land_on(PIXELS, image_to, spots_to)
    sdata = slide_of(WHITE, spots, image_to={"lab": image_to}, spots_to={"lab": spots_to})
    np.testing.assert_allclose(centers_px(sdata, "he", "spots"), PIXELS, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(degrees=st.floats(0, 360), mpp=st.floats(0.1, 10), flip=st.booleans())
def test_scale_of_a_rotated_image(slide_of, degrees, mpp, flip):
    matrix = rotation(degrees) @ scale(mpp, -mpp if flip else mpp)
    sdata = slide_of(WHITE, PIXELS, image_to={"microns": matrix}, spots_to={"microns": matrix})
    assert microns_per_pixel(sdata, "he") == pytest.approx(mpp, rel=1e-9)


PLACEMENTS = {
    "same pixels": (np.eye(3), np.eye(3)),
    "quarter image": (scale(4, 4), np.eye(3)),
    "image turned": (rotation(90), np.eye(3)),
    "image turned and moved, spots mirrored": (move(300, -20) @ rotation(30) @ scale(2, 2), scale(-0.5, 0.5)),
    "spots transposed": (np.eye(3), np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])),
    "both scaled": (scale(0.3, 0.3), move(5, 5) @ scale(3, 3)),
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_tiles_show_the_marked_pixels(slide_of, name):
    image_to, spots_to = PLACEMENTS[name]
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 200, (6, 3), dtype=np.uint8)
    image = np.full((200, 300, 3), 255, np.uint8)
    pixels = np.array([[50, 40], [150, 40], [250, 40], [50, 140], [150, 140], [250, 140]], float)
    for (x, y), color in zip(pixels.astype(int), colors, strict=True):
        image[y - 15 : y + 15, x - 15 : x + 15] = color
    spots = spots_that_land_on(pixels, image_to, spots_to)
    sdata = slide_of(image, spots, image_to={"global": image_to}, spots_to={"global": spots_to}, mpp=1.0)

    place = place_spots(sdata, "he", "spots")
    pyramid = pyramid_levels(sdata, "he")
    boxes = make_boxes(place.centers, place.mpp, level_sizes(pyramid), TileGeometry(tile_um=30, input_px=99))
    for rows, tiles in read_tiles(pyramid[0], boxes, 4):
        for row, tile in zip(rows, tiles, strict=True):
            assert (tile == colors[row]).all()


def test_quarter_image_without_its_transformation_is_refused(slide_of, cheap_encoder):
    sdata = slide_of(WHITE, PIXELS * 4, mpp=1.0, diameter_um=55)
    with pytest.raises(ValueError, match=r"3 of 3 spots lie outside image 'he' \(80 × 60 px\).*downscaled image needs"):
        ds.pp.embed(sdata, cheap_encoder)
    assert list(sdata.tables) == []


def test_quarter_image_with_its_transformation(slide_of):
    sdata = slide_of(WHITE, PIXELS * 4)
    set_transformation(sdata["he"], Scale([4, 4], axes=("x", "y")), "global")
    np.testing.assert_allclose(centers_px(sdata, "he", "spots"), PIXELS)


def test_consistent_coordinate_systems(slide_of):
    systems = {"a": np.eye(3), "b": rotation(30)}
    sdata = slide_of(WHITE, PIXELS, image_to=systems, spots_to=systems)
    np.testing.assert_allclose(centers_px(sdata, "he", "spots"), PIXELS, atol=1e-9)


def test_inconsistent_coordinate_systems_are_listed(slide_of):
    sdata = slide_of(
        WHITE, PIXELS, image_to={"a": np.eye(3), "b": np.eye(3)}, spots_to={"a": np.eye(3), "b": move(7, 0)}
    )
    with pytest.raises(ValueError, match=r"\['a', 'b'\] place the shapes 'spots' up to 7\.0 px apart in image 'he'"):
        centers_px(sdata, "he", "spots")
    np.testing.assert_allclose(centers_px(sdata, "he", "spots", "b"), PIXELS + np.array([7, 0]))
    with pytest.raises(
        ValueError, match=r"'c' is not shared by image 'he' and shapes 'spots'. They share \['a', 'b'\]"
    ):
        centers_px(sdata, "he", "spots", "c")


def test_no_shared_coordinate_system(slide_of):
    sdata = slide_of(WHITE, PIXELS, image_to={"a": np.eye(3)}, spots_to={"b": np.eye(3)})
    with pytest.raises(ValueError, match=r"Image 'he' \(\['a'\]\) and shapes 'spots' \(\['b'\]\) share no coordinate"):
        centers_px(sdata, "he", "spots")


def test_microns_as_coordinate_system(slide_of):
    sdata = slide_of(WHITE, PIXELS, mpp=0.5)
    np.testing.assert_allclose(centers_px(sdata, "he", "spots", "microns"), PIXELS)


@pytest.fixture
def visium_like(slide_of):
    """Full image, hires image and spots in three coordinate systems, as spatialdata-io lays out Visium."""
    sdata = slide_of(
        np.zeros((600, 800, 3), np.uint8),
        PIXELS * 10,
        image_to={"V1": np.eye(3)},
        spots_to={"V1": np.eye(3), "V1_downscaled_hires": scale(0.1, 0.1), "V1_downscaled_lowres": scale(0.05, 0.05)},
    )
    for name, factor in {"hires": 0.1, "lowres": 0.05}.items():
        small = np.zeros((3, int(600 * factor), int(800 * factor)), np.uint8)
        there = {f"V1_downscaled_{name}": Identity(), "V1": Scale([1 / factor, 1 / factor], axes=("x", "y"))}
        sdata[name] = Image2DModel.parse(small, dims=("c", "y", "x"), transformations=there)
    return sdata


def test_three_systems_of_visium(visium_like):
    np.testing.assert_allclose(centers_px(visium_like, "he", "spots"), PIXELS * 10)
    np.testing.assert_allclose(centers_px(visium_like, "hires", "spots"), PIXELS)
    np.testing.assert_allclose(centers_px(visium_like, "lowres", "spots"), PIXELS / 2)


def test_scale_spreads_to_related_elements(visium_like):
    assert write_scale(visium_like, "spots", 0.5) == ["spots", "he", "hires", "lowres"]
    assert microns_per_pixel(visium_like, "he") == pytest.approx(0.5)
    assert microns_per_pixel(visium_like, "hires") == pytest.approx(5)
    assert microns_per_pixel(visium_like, "lowres") == pytest.approx(10)


def test_scale_does_not_change_unrelated_elements(slide_of):
    sdata = slide_of(WHITE, PIXELS)
    sdata["elsewhere"] = ShapesModel.parse(PIXELS, geometry=0, radius=1, transformations={"other": Identity()})
    assert write_scale(sdata, "he", 0.5) == ["he", "spots"]
    assert set(get_transformation(sdata["elsewhere"], get_all=True)) == {"other"}


def test_correcting_a_scale_keeps_spots_in_place(slide_of):
    sdata = slide_of(WHITE, PIXELS, mpp=0.5)
    write_scale(sdata, "he", 0.25)
    assert microns_per_pixel(sdata, "he") == pytest.approx(0.25)
    np.testing.assert_allclose(centers_px(sdata, "he", "spots"), PIXELS)
    np.testing.assert_allclose(centers_px(sdata, "he", "spots", "microns"), PIXELS)


def test_correcting_a_scale_if_only_microns_are_shared(slide_of):
    image_to = move(100, 50) @ scale(0.5, 0.5)
    spots = apply(image_to, PIXELS)
    sdata = slide_of(WHITE, spots, image_to={"microns": image_to}, spots_to={"microns": np.eye(3)})
    assert write_scale(sdata, "he", 0.25) == ["he", "spots"]
    np.testing.assert_allclose(centers_px(sdata, "he", "spots"), PIXELS)


def test_unknown_scale_is_refused_with_a_hint(slide_of):
    sdata = slide_of(WHITE, PIXELS)
    assert not has_scale(sdata, "he")
    with pytest.raises(
        ValueError, match=r"scale of image 'he' is unknown.*ds\.pp\.set_scale\(sdata, image_key='he', mpp="
    ):
        microns_per_pixel(sdata, "he")


@pytest.mark.parametrize("turn", [0, 30])
def test_anisotropic_pixels_are_refused(slide_of, turn):
    sdata = slide_of(WHITE, PIXELS, image_to={"microns": rotation(turn) @ scale(0.5, 0.6)})
    with pytest.raises(ValueError, match=r"Pixels of image 'he' are not square: 0\.6 by 0\.5 µm"):
        microns_per_pixel(sdata, "he")


def test_missing_coordinates_are_refused(slide_of):
    sdata = slide_of(WHITE, PIXELS, index=["A", "B", "C"])
    broken = sdata["spots"].copy()
    broken.loc["B", "geometry"] = type(broken.geometry.iloc[0])(np.nan, np.nan)
    sdata.shapes["spots"] = broken
    with pytest.raises(ValueError, match="1 of 3 shapes in 'spots' have no finite coordinates, first at index 'B'"):
        centers_px(sdata, "he", "spots")


def test_polygons_are_placed_by_their_centroid(slide_of):
    from geopandas import GeoDataFrame
    from shapely import box

    sdata = slide_of(WHITE, PIXELS)
    sdata["squares"] = ShapesModel.parse(GeoDataFrame(geometry=[box(10, 20, 14, 26), box(0, 0, 2, 2)]))
    np.testing.assert_allclose(centers_px(sdata, "he", "squares"), [[12, 23], [1, 1]])


def hexagons(pitch, n=6):
    row, col = (axis.ravel() for axis in np.mgrid[:n, : 2 * n])
    row, col = (axis[(row + col) % 2 == 0] for axis in (row, col))
    return np.column_stack([col * pitch / 2, row * pitch * np.sqrt(3) / 2]), np.column_stack([row, col])


@pytest.mark.parametrize("turn", [0, 17])
def test_pitch_of_rounded_pixels(turn):
    points, array = hexagons(201.37)
    points = apply(rotation(turn), points).round()
    steps = array * [np.sqrt(3) / 2, 0.5]
    assert pitch_from_array(points, steps) == pytest.approx(201.37, rel=1e-3)
    assert pitch_px(points) == pytest.approx(201.37, rel=1e-2)


def test_pitch_of_one_row_of_spots():
    points = np.column_stack([np.arange(5) * 40.0, np.zeros(5)])
    assert pitch_from_array(points, np.column_stack([np.zeros(5), np.arange(5)])) == 40


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_pitch_of_few_spots(n):
    assert pitch_px(np.column_stack([np.arange(n) * 40.0, np.zeros(n)])) == 40


@pytest.mark.parametrize("kind", ["hexagonal", "square"])
def test_pitch_with_jitter(kind):
    if kind == "hexagonal":
        points, _ = hexagons(200, n=12)
    else:
        points = np.column_stack([axis.ravel() for axis in np.mgrid[:15, :15]]) * 200.0
    points += np.random.default_rng(0).normal(0, 8, points.shape)
    assert pitch_px(points) == pytest.approx(200, rel=0.015)


def test_pitch_requires_two_spots():
    with pytest.raises(ValueError, match=r"fewer than two spots. Pass `mpp` instead"):
        pitch_px(np.zeros((1, 2)))


@settings(max_examples=25, deadline=None)
@given(image_to=similarities, spots_to=similarities)
def test_circles_are_at_their_pixels(slide_of, image_to, spots_to):
    spots = spots_that_land_on(PIXELS, image_to, spots_to)
    sdata = slide_of(WHITE, spots, image_to={"lab": image_to}, spots_to={"lab": spots_to}, index=list("abc"))
    wanted = Placement(PIXELS[:2] + 3, 0.5, sdata.shapes["spots"].index[:2])
    sdata.shapes["finer"] = circles_at(sdata, "he", "spots", wanted, diameter_um=20)
    made = sdata.shapes["finer"]
    assert list(made.index) == ["a", "b"]
    np.testing.assert_allclose(centers_px(sdata, "he", "finer"), wanted.centers, atol=1e-4)
    # 20 px in the image, in the units of the spots
    unit = np.sqrt(abs(np.linalg.det(image_to[:2, :2]) / np.linalg.det(spots_to[:2, :2])))
    np.testing.assert_allclose(made["radius"], 20 * unit)
    assert set(made["diameter_um"]) == {20.0}
