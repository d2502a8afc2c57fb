import geopandas as gpd
import numpy as np
import pytest
import shapely
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale, set_transformation

import deepspot as ds
from deepspot._sdata.view import SlideView
from deepspot._spatial.transforms import centers_px, microns_per_pixel, write_scale

GRAY = np.full((600, 800, 3), 99, np.uint8)
XY = np.array([[100.0, 100.0], [200.0, 200.0]])


def selected(*arguments, **options):
    view = SlideView.select(*arguments, **options)
    return view.image_key, view.shapes_key


def small_copy(sdata, name, factor, system="global"):
    pixels = np.full((3, int(600 * factor), int(800 * factor)), 99, np.uint8)
    there = {system: Scale([1 / factor, 1 / factor], axes=("x", "y"))}
    sdata[name] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=there)


def test_single_candidates_are_selected(slide_of):
    assert selected(slide_of(GRAY, XY)) == ("he", "spots")


def test_downscaled_copies_are_not_candidates(slide_of):
    sdata = slide_of(GRAY, XY, diameter_um=55)
    small_copy(sdata, "hires", 0.1)
    small_copy(sdata, "lowres", 0.05)
    write_scale(sdata, "he", 1.0)
    assert selected(sdata) == ("he", "spots")


@pytest.mark.parametrize("tile_um", [None, 100, 250])
def test_full_resolution_image_is_selected(slide_of, tile_um):
    sdata = slide_of(GRAY, XY)
    small_copy(sdata, "hires", 0.17)
    small_copy(sdata, "a_lowres", 0.02)  # the order of names is irrelevant
    write_scale(sdata, "he", 1.0)
    assert selected(sdata, tile_um=tile_um) == ("he", "spots")


def test_full_resolution_image_is_a_pyramid(slide_of):
    sdata = slide_of(GRAY, XY, scale_factors=[2])
    small_copy(sdata, "hires", 0.5)
    write_scale(sdata, "he", 1.0)
    assert selected(sdata, tile_um=100) == ("he", "spots")


@pytest.mark.parametrize("factor", [1.0, 0.98])
def test_images_of_equal_scale_are_all_candidates(slide_of, factor):
    sdata = slide_of(GRAY, XY)
    small_copy(sdata, "second_scan", factor)
    small_copy(sdata, "hires", 0.5)
    write_scale(sdata, "he", 1.0)
    with pytest.raises(ValueError, match=r"several candidates: .*Choose one with `image_key=`"):
        selected(sdata, tile_um=100)
    assert selected(sdata, "second_scan", tile_um=100) == ("second_scan", "spots")


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((3, 300, 300), np.uint8),  # 150 µm of the slide, with one of the two spots
        np.zeros((1, 1200, 1600), np.uint8),
        np.zeros((3, 1200, 1600), np.uint16),
    ],
    ids=["enlarged part", "one channel", "16 bits"],
)
def test_finer_images_that_do_not_replace_the_slide_are_ambiguous(slide_of, pixels):
    sdata = slide_of(GRAY, XY)
    finer = {"global": Scale([0.5, 0.5], axes=("x", "y"))}
    sdata["finer"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=finer)
    write_scale(sdata, "he", 1.0)
    with pytest.raises(ValueError, match="several candidates"):
        selected(sdata, tile_um=100)


def test_image_is_selected_for_inconsistent_coordinate_systems(slide_of):
    sdata = slide_of(
        GRAY,
        XY,
        image_to={"global": np.eye(3), "other": np.eye(3)},
        spots_to={"global": np.eye(3), "other": np.diag([1.5, 1.5, 1])},
    )
    small_copy(sdata, "hires", 0.5)
    write_scale(sdata, "he", 1.0)
    assert selected(sdata, tile_um=100) == ("he", "spots")


def test_downscaled_copies_alone_are_refused(slide_of):
    sdata = slide_of(GRAY, XY, diameter_um=55)
    small_copy(sdata, "hires", 0.1)
    write_scale(sdata, "he", 1.0)
    del sdata.images["he"]
    with pytest.raises(ValueError, match=r"a tile of 55 µm would have \{'hires': 6\} px, .*Add the full-res"):
        selected(sdata)
    assert selected(sdata, "hires") == ("hires", "spots")


def test_images_of_unknown_scale_are_all_candidates(slide_of):
    sdata = slide_of(GRAY, XY, diameter_um=55)
    small_copy(sdata, "hires", 0.1)
    with pytest.raises(ValueError, match=r"`sdata.images` holds several candidates: \['he', 'hires'\]"):
        selected(sdata)
    assert selected(sdata, "hires") == ("hires", "spots")


def test_several_shapes_are_listed(slide_of):
    sdata = slide_of(GRAY, XY)
    sdata["cells"] = ShapesModel.parse(XY, geometry=0, radius=1)
    with pytest.raises(ValueError, match=r"`sdata.shapes` holds several candidates: .*Choose one with `shapes_key=`"):
        selected(sdata)
    assert selected(sdata, None, "cells") == ("he", "cells")


def test_unrelated_elements_are_not_candidates(slide_of):
    sdata = slide_of(GRAY, XY)
    sdata["cells"] = ShapesModel.parse(XY, geometry=0, radius=1, transformations={"elsewhere": Identity()})
    small_copy(sdata, "other", 0.5, system="elsewhere")
    assert selected(sdata, None, "spots") == ("he", "spots")
    assert selected(sdata, "other") == ("other", "cells")


@pytest.fixture
def two_slides(slide_of):
    """Two slides in one object: each has its own coordinate system, and µm."""
    sdata = slide_of(GRAY, XY, image_to={"a": np.eye(3)}, spots_to={"a": np.eye(3)}, mpp=0.5)
    small_copy(sdata, "other", 1.0, system="b")
    sdata["other_spots"] = ShapesModel.parse(XY, geometry=0, radius=1, transformations={"b": Identity()})
    write_scale(sdata, "other", 0.25)
    return sdata


def test_slides_are_not_related_by_microns(two_slides):
    assert selected(two_slides, None, "spots") == ("he", "spots")
    assert selected(two_slides, None, "other_spots") == ("other", "other_spots")
    assert selected(two_slides, "he") == ("he", "spots")
    message = r"Image 'he' \(\['a', 'microns'\]\) and shapes 'other_spots' .*each has its own 'microns'.*same slide"
    with pytest.raises(ValueError, match=message):
        centers_px(two_slides, "he", "other_spots")
    there = centers_px(two_slides, "he", "other_spots", "microns")  # if the user says so
    np.testing.assert_allclose(there, XY / 2)


def test_the_scale_of_one_slide_does_not_change_the_other(two_slides):
    assert write_scale(two_slides, "he", 1.0) == ["he", "spots"]
    assert microns_per_pixel(two_slides, "other") == pytest.approx(0.25)


def test_finer_image_of_another_slide_is_not_selected(slide_of):
    """Two slides in the same coordinate system, such as "global" in pixels of both."""
    sdata = slide_of(GRAY, XY, mpp=0.5)
    small_copy(sdata, "other", 1.0, system="b")
    write_scale(sdata, "other", 0.25)
    set_transformation(sdata["other"], Identity(), "global")
    with pytest.raises(ValueError, match=r"several candidates: \['he', 'other'\]"):
        selected(sdata)


@pytest.mark.parametrize(("color", "is_copy"), [(99, True), (102, True), (180, False)])
def test_coarser_images_of_another_slide(slide_of, color, is_copy):
    sdata = slide_of(GRAY, XY)
    pixels = np.full((3, 300, 400), color, np.uint8)
    there = {"global": Scale([2, 2], axes=("x", "y"))}
    sdata["other"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=there)
    write_scale(sdata, "he", 1.0)
    if is_copy:
        assert selected(sdata, tile_um=100) == ("he", "spots")
    else:
        with pytest.raises(ValueError, match=r"several candidates: \['he', 'other'\]"):
            selected(sdata, tile_um=100)


@pytest.mark.parametrize("seed", [0, 1])
def test_copies_are_recognized_by_their_tissue(slide_of, seed):
    """Two slides in stain of the same average color, of which one is smaller."""
    blobs = [np.random.default_rng(number).integers(130, 220, (30, 40, 3)).astype(np.uint8) for number in range(2)]
    full, small = blobs[0].repeat(20, 0).repeat(20, 1), blobs[seed].repeat(5, 0).repeat(5, 1)
    x, y = np.meshgrid(np.arange(50, 800, 75), np.arange(50, 600, 75))
    sdata = slide_of(full, np.column_stack([x.ravel(), y.ravel()]).astype(float))
    there = {"global": Scale([4, 4], axes=("x", "y"))}
    sdata["hires"] = Image2DModel.parse(small.transpose(2, 0, 1), dims=("c", "y", "x"), transformations=there)
    write_scale(sdata, "he", 1.0)
    if seed == 0:
        assert selected(sdata, tile_um=100) == ("he", "spots")
    else:
        with pytest.raises(ValueError, match="several candidates"):
            selected(sdata, tile_um=100)


@pytest.mark.parametrize(("keys", "offender"), [(("nope", None), "nope"), ((None, "nope"), "nope")])
def test_unknown_keys(slide_of, keys, offender):
    with pytest.raises(
        KeyError, match=rf"Key `'{offender}'` not found in `sdata\.(images|shapes)`. Available keys: \["
    ):
        selected(slide_of(GRAY, XY), *keys)


def test_no_shapes(slide_of):
    sdata = slide_of(GRAY, XY)
    del sdata.shapes["spots"]
    with pytest.raises(KeyError, match=r"no spots. Add them with `ds.pp.spots\(sdata\)`"):
        selected(sdata)


def test_diameter(slide_of):
    sdata = slide_of(GRAY, XY)
    assert SlideView(sdata, "he", "spots").diameter_um is None
    sdata["spots"]["diameter_um"] = [55.0, 55.0]
    assert SlideView(sdata, "he", "spots").diameter_um == 55.0
    sdata["spots"]["diameter_um"] = [55.0, 100.0]
    with pytest.raises(ValueError, match=r"Spots of 'spots' have several diameters: 55, 100 µm.*pass `tile_um=`"):
        selected(sdata)


def test_spots_take_precedence_over_grids(slide_of):
    sdata = slide_of(GRAY, XY)
    sdata.shapes["spots_grid"] = sdata.shapes["spots"].assign(parent=[0, 1])
    assert selected(sdata) == ("he", "spots")
    assert selected(sdata, None, "spots_grid") == ("he", "spots_grid")
    del sdata.shapes["spots"]
    assert selected(sdata) == ("he", "spots_grid")


def test_spots_take_precedence_over_regions(slide_of):
    from geopandas import GeoDataFrame
    from shapely import box

    sdata = slide_of(GRAY, XY)
    sdata.shapes["regions"] = ShapesModel.parse(GeoDataFrame(geometry=[box(0, 0, 10, 10)]))
    assert selected(sdata) == ("he", "spots")
    del sdata.shapes["spots"]
    assert selected(sdata) == ("he", "regions")


def test_all_shapes_that_can_be_named_are_listed(slide_of):
    """Also polygons, which are not chosen by default next to spots."""
    sdata = slide_of(GRAY, XY)
    square = shapely.box(0, 0, 50, 50)
    sdata["cells"] = ShapesModel.parse(gpd.GeoDataFrame(geometry=[square]), transformations={"global": Identity()})
    for options in ({}, {"needs_image": False}):
        with pytest.raises(KeyError, match=r"Available keys: \['spots', 'cells'\]"):
            selected(sdata, shapes_key="cels", **options)
    del sdata.images["he"]
    with pytest.raises(KeyError, match=r"Available keys: \['spots', 'cells'\]"):
        selected(sdata, shapes_key="cels", needs_image=False)


def test_without_an_image_the_next_step_is_named(slide_of):
    sdata = slide_of(GRAY, XY)
    del sdata.images["he"]
    with pytest.raises(
        KeyError, match=r"The object has no image.*`ds\.tl\.predict\(out=…\)`.*`sdata\[key\] = slide\[key\]`"
    ):
        selected(sdata, shapes_key="spots")
    with pytest.raises(KeyError, match=r"Read the slide with its image"):
        ds.pp.nuclei(sdata)
