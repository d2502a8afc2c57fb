import numpy as np
import pytest
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale

from deepspot._sdata.view import known_diameter, select_image_and_shapes, select_shapes
from deepspot._spatial.transforms import write_scale

GRAY = np.full((600, 800, 3), 99, np.uint8)
XY = np.array([[100.0, 100.0], [200.0, 200.0]])


def small_copy(sdata, name, factor, system="global"):
    pixels = np.zeros((3, int(600 * factor), int(800 * factor)), np.uint8)
    there = {system: Scale([1 / factor, 1 / factor], axes=("x", "y"))}
    sdata[name] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=there)


def test_only_candidates_are_taken(slide_of):
    assert select_image_and_shapes(slide_of(GRAY, XY), None, None) == ("he", "spots")


def test_small_copies_are_no_candidates(slide_of):
    sdata = slide_of(GRAY, XY, diameter_um=55)
    small_copy(sdata, "hires", 0.1)
    small_copy(sdata, "lowres", 0.05)
    write_scale(sdata, "he", 1.0)
    assert select_image_and_shapes(sdata, None, None) == ("he", "spots")


@pytest.mark.parametrize("tile_um", [100, 250])
def test_the_full_resolution_image_is_taken_beside_coarser_ones(slide_of, tile_um):
    sdata = slide_of(GRAY, XY)
    small_copy(sdata, "hires", 0.1)
    small_copy(sdata, "a_lowres", 0.02)  # the order of names decides nothing
    write_scale(sdata, "he", 1.0)
    assert select_image_and_shapes(sdata, None, None, tile_um=tile_um) == ("he", "spots")


def test_the_full_resolution_image_is_taken_whatever_the_size_of_the_spots(slide_of):
    sdata = slide_of(GRAY, XY)  # without a diameter
    small_copy(sdata, "hires", 0.17)
    write_scale(sdata, "he", 1.0)
    assert select_image_and_shapes(sdata, None, None) == ("he", "spots")


def test_the_full_resolution_image_may_be_a_pyramid(slide_of):
    sdata = slide_of(GRAY, XY, scale_factors=[2])
    small_copy(sdata, "hires", 0.5)
    write_scale(sdata, "he", 1.0)
    assert select_image_and_shapes(sdata, None, None, tile_um=100) == ("he", "spots")


@pytest.mark.parametrize("factor", [1.0, 0.98])
def test_images_of_one_scale_are_all_candidates(slide_of, factor):
    sdata = slide_of(GRAY, XY)
    small_copy(sdata, "second_scan", factor)
    small_copy(sdata, "hires", 0.5)
    write_scale(sdata, "he", 1.0)
    with pytest.raises(ValueError, match=r"several candidates: .*Choose one with `image_key=`"):
        select_image_and_shapes(sdata, None, None, tile_um=100)
    assert select_image_and_shapes(sdata, "second_scan", None, tile_um=100) == ("second_scan", "spots")


def test_an_enlarged_part_of_the_tissue_is_not_taken_for_the_full_image(slide_of):
    sdata = slide_of(GRAY, XY)
    detail = np.zeros((3, 300, 300), np.uint8)  # 150 µm of the slide, with one of the two spots
    sdata["detail"] = Image2DModel.parse(
        detail, dims=("c", "y", "x"), transformations={"global": Scale([0.5, 0.5], axes=("x", "y"))}
    )
    write_scale(sdata, "he", 1.0)
    with pytest.raises(ValueError, match="several candidates"):
        select_image_and_shapes(sdata, None, None, tile_um=100)


@pytest.mark.parametrize("pixels", [np.zeros((1, 1200, 1600), np.uint8), np.zeros((3, 1200, 1600), np.uint16)])
def test_an_image_that_is_no_histology_is_not_taken_for_the_full_image(slide_of, pixels):
    sdata = slide_of(GRAY, XY)
    sdata["dapi"] = Image2DModel.parse(
        pixels, dims=("c", "y", "x"), transformations={"global": Scale([0.5, 0.5], axes=("x", "y"))}
    )
    write_scale(sdata, "he", 1.0)
    with pytest.raises(ValueError, match="several candidates"):
        select_image_and_shapes(sdata, None, None, tile_um=100)


def test_coordinate_systems_that_disagree_do_not_keep_the_image_from_being_chosen(slide_of):
    sdata = slide_of(
        GRAY,
        XY,
        image_to={"global": np.eye(3), "other": np.eye(3)},
        spots_to={"global": np.eye(3), "other": np.diag([1.5, 1.5, 1])},
    )
    small_copy(sdata, "hires", 0.5)
    write_scale(sdata, "he", 1.0)
    assert select_image_and_shapes(sdata, None, None, tile_um=100) == ("he", "spots")


def test_small_copies_alone_are_refused(slide_of):
    sdata = slide_of(GRAY, XY, diameter_um=55)
    small_copy(sdata, "hires", 0.1)
    write_scale(sdata, "he", 1.0)
    del sdata.images["he"]
    with pytest.raises(ValueError, match=r"a tile of 55 µm would have \{'hires': 6\} px, .*Add the full-res"):
        select_image_and_shapes(sdata, None, None)
    assert select_image_and_shapes(sdata, "hires", None) == ("hires", "spots")


def test_images_of_unknown_scale_are_all_candidates(slide_of):
    sdata = slide_of(GRAY, XY, diameter_um=55)
    small_copy(sdata, "hires", 0.1)
    with pytest.raises(ValueError, match=r"`sdata.images` holds several candidates: \['he', 'hires'\]"):
        select_image_and_shapes(sdata, None, None)
    assert select_image_and_shapes(sdata, "hires", None) == ("hires", "spots")


def test_several_shapes_are_listed(slide_of):
    sdata = slide_of(GRAY, XY)
    sdata["cells"] = ShapesModel.parse(XY, geometry=0, radius=1)
    with pytest.raises(ValueError, match=r"`sdata.shapes` holds several candidates: .*Choose one with `shapes_key=`"):
        select_image_and_shapes(sdata, None, None)
    assert select_image_and_shapes(sdata, None, "cells") == ("he", "cells")


def test_unrelated_elements_are_no_candidates(slide_of):
    sdata = slide_of(GRAY, XY)
    sdata["cells"] = ShapesModel.parse(XY, geometry=0, radius=1, transformations={"elsewhere": Identity()})
    small_copy(sdata, "other", 0.5, system="elsewhere")
    assert select_image_and_shapes(sdata, None, "spots") == ("he", "spots")
    assert select_image_and_shapes(sdata, "other", None) == ("other", "cells")


@pytest.mark.parametrize(("keys", "offender"), [(("nope", None), "nope"), ((None, "nope"), "nope")])
def test_unknown_keys(slide_of, keys, offender):
    with pytest.raises(
        KeyError, match=rf"Key `'{offender}'` not found in `sdata\.(images|shapes)`. Available keys: \["
    ):
        select_image_and_shapes(slide_of(GRAY, XY), *keys)


def test_no_shapes(slide_of):
    sdata = slide_of(GRAY, XY)
    del sdata.shapes["spots"]
    with pytest.raises(KeyError, match=r"no spots. Add them with `ds.pp.spots\(sdata\)`"):
        select_image_and_shapes(sdata, None, None)


def test_diameter(slide_of):
    sdata = slide_of(GRAY, XY)
    assert known_diameter(sdata, "spots") is None
    sdata["spots"]["diameter_um"] = [55.0, 55.0]
    assert known_diameter(sdata, "spots") == 55.0
    sdata["spots"]["diameter_um"] = [55.0, 100.0]
    with pytest.raises(
        ValueError, match=r"Spots of 'spots' have several diameters: \[.*55.*100.*\] µm. Pass `tile_um=`"
    ):
        known_diameter(sdata, "spots")


def test_what_was_made_of_spots_is_no_candidate_beside_them(slide_of):
    sdata = slide_of(GRAY, XY)
    sdata.shapes["spots_grid"] = sdata.shapes["spots"].assign(parent=[0, 1])
    assert select_shapes(sdata, None, None) == "spots"
    assert select_shapes(sdata, None, "spots_grid") == "spots_grid"
    del sdata.shapes["spots"]
    assert select_shapes(sdata, None, None) == "spots_grid"


def test_regions_are_no_candidates_beside_spots(slide_of):
    from geopandas import GeoDataFrame
    from shapely import box
    from spatialdata.models import ShapesModel

    sdata = slide_of(GRAY, XY)
    sdata.shapes["regions"] = ShapesModel.parse(GeoDataFrame(geometry=[box(0, 0, 10, 10)]))
    assert select_shapes(sdata, None, None) == "spots"
    del sdata.shapes["spots"]
    assert select_shapes(sdata, None, None) == "regions"
