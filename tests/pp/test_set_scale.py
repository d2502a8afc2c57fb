import numpy as np
import pytest
from spatialdata.models import Image2DModel

import deepspot as ds
from deepspot._spatial.transforms import centers_px, has_scale, microns_per_pixel

WHITE = np.full((200, 300, 3), 255, np.uint8)
XY = np.array([[50.0, 50.0], [90.0, 50.0], [130.0, 50.0], [50.0, 90.0], [90.0, 90.0], [130.0, 90.0]])


@pytest.fixture
def bare(slide_of):
    return slide_of(WHITE, XY)


def test_microns_per_pixel(bare, log):
    assert ds.pp.set_scale(bare, mpp=0.5) is None
    assert microns_per_pixel(bare, "he") == pytest.approx(0.5)
    assert log == ["Set 0.5 µm per pixel for 'he' and 1 related elements."]
    assert "diameter_um" not in bare["spots"]


def test_pitch(bare):
    ds.pp.set_scale(bare, pitch_um=100)
    assert microns_per_pixel(bare, "he") == pytest.approx(100 / 40)


def test_pitch_is_measured_in_pixels_of_the_image(slide_of):
    double = np.diag([2.0, 2.0, 1])
    sdata = slide_of(WHITE, XY, image_to={"global": double})
    ds.pp.set_scale(sdata, pitch_um=100)
    assert microns_per_pixel(sdata, "he") == pytest.approx(100 / 20)


def test_diameter_becomes_the_default_tile(bare, cheap_encoder):
    ds.pp.set_scale(bare, mpp=0.5, diameter_um=15)
    assert set(bare["spots"]["diameter_um"]) == {15.0}
    ds.pp.embed(bare, cheap_encoder)
    assert cheap_encoder.seen[0].shape[1] == 30


@pytest.mark.parametrize("arguments", [{}, {"mpp": 0.5, "pitch_um": 100}])
def test_exactly_one_of_mpp_and_pitch(bare, arguments):
    with pytest.raises(ValueError, match=r"Pass either `mpp` .* or `pitch_um`"):
        ds.pp.set_scale(bare, **arguments)


@pytest.mark.parametrize(
    ("arguments", "offender"),
    [
        ({"mpp": 0}, "mpp"),
        ({"pitch_um": -1}, "pitch_um"),
        ({"mpp": 1, "diameter_um": 0}, "diameter_um"),
    ],
)
def test_sizes_are_positive(bare, arguments, offender):
    with pytest.raises(ValueError, match=f"`{offender}` must be above 0"):
        ds.pp.set_scale(bare, **arguments)
    assert not has_scale(bare, "he")
    assert "diameter_um" not in bare["spots"]


def test_several_images_are_listed(bare):
    bare["other"] = Image2DModel.parse(WHITE.transpose(2, 0, 1), dims=("c", "y", "x"))
    with pytest.raises(ValueError, match=r"`sdata.images` holds several candidates: \['he', 'other'\]"):
        ds.pp.set_scale(bare, mpp=0.5)
    ds.pp.set_scale(bare, mpp=0.5, image_key="other")
    assert microns_per_pixel(bare, "other") == pytest.approx(0.5)


def test_correcting_the_scale_moves_nothing(bare):
    ds.pp.set_scale(bare, mpp=0.5)
    ds.pp.set_scale(bare, mpp=0.25)
    assert microns_per_pixel(bare, "he") == pytest.approx(0.25)
    np.testing.assert_allclose(centers_px(bare, "he", "spots"), XY)


@pytest.mark.parametrize("arguments", [{"mpp": 0.5}, {"pitch_um": 20}])
def test_a_wrong_scale_can_be_corrected(bare, arguments):
    ds.pp.set_scale(bare, mpp=5, diameter_um=55)
    ds.pp.set_scale(bare, **arguments)
    assert microns_per_pixel(bare, "he") == pytest.approx(0.5)


def test_pyramid(slide_of):
    sdata = slide_of(WHITE, XY, scale_factors=[2, 2])
    ds.pp.set_scale(sdata, mpp=0.5)
    assert microns_per_pixel(sdata, "he") == pytest.approx(0.5)
    np.testing.assert_allclose(centers_px(sdata, "he", "spots"), XY)


@pytest.mark.parametrize("scale", [{"mpp": 353}, {"mpp": 1e30}, {"pitch_um": 1e-5}])
def test_implausible_scales_change_nothing(slide_of, scale):
    sdata = slide_of(WHITE, XY)
    with pytest.raises(ValueError, match=rf"`{next(iter(scale))}` gives .* µm per pixel; .*0\.05 to 10"):
        ds.pp.set_scale(sdata, diameter_um=55, **scale)
    assert "diameter_um" not in sdata["spots"]
    assert "microns" not in sdata.coordinate_systems
