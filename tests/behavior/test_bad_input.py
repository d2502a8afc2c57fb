"""Bad input: the message names the offender and the alternatives, and the slide is not changed."""

import geopandas as gpd
import pytest
from shapely import box

import deepspot as ds

FAR = gpd.GeoDataFrame({"name": ["tumor"]}, geometry=[box(1e6, 1e6, 1e6 + 1, 1e6 + 1)])

# Call on a slide with a prediction, error, and words in the message.
WRONG = {
    "unknown gene": (lambda sdata, _: ds.pl.spatial(sdata, "NOISEX"), KeyError, ["NOISEX", "NOISE6"]),
    "unknown table": (lambda sdata, _: ds.tl.evaluate(sdata, table_key="nothing"), KeyError, ["nothing", "table"]),
    "unknown shapes": (
        lambda sdata, model: ds.tl.predict(sdata, model, shapes_key="cells"),
        KeyError,
        ["cells", "spots"],
    ),
    "unknown image": (
        lambda sdata, model: ds.tl.predict(sdata, model, image_key="dapi"),
        KeyError,
        ["dapi", "P3_S1_image"],
    ),
    "unknown groups": (
        lambda sdata, _: ds.tl.markers(sdata, "cluster", table_key="deepspot_spots"),
        KeyError,
        ["cluster"],
    ),
    "unknown resolution": (
        lambda sdata, model: ds.tl.predict(sdata, model, resolution="nucleus"),
        KeyError,
        ["nucleus", "subspot"],
    ),
    "unknown model": (lambda sdata, _: ds.tl.predict(sdata, "no_such_model"), (ValueError, OSError), ["no_such_model"]),
    "unknown encoder": (
        lambda sdata, _: ds.pp.embed(sdata, "resnet-of-mine"),
        KeyError,
        ["resnet-of-mine", "lite0_stats"],
    ),
    "prediction is there": (
        lambda sdata, model: ds.tl.predict(sdata, model),
        ValueError,
        ["deepspot_spots", "overwrite"],
    ),
    "genes as text": (lambda sdata, _: ds.models.train(sdata, genes="TUMOR1"), TypeError, ["TUMOR1"]),
    "regions elsewhere": (lambda sdata, _: ds.pp.annotate(sdata, FAR, label_key="name"), ValueError, ["spots"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_offender_and_change_nothing(predicted, model, snapshot, case):
    call, error, named = WRONG[case]
    before = snapshot(predicted)
    with pytest.raises(error) as raised:
        call(predicted, model)
    assert all(name in str(raised.value) for name in named), str(raised.value)
    assert snapshot(predicted) == before


def test_a_slide_of_unknown_scale_is_refused(slides, model, encoder, snapshot):
    from spatialdata.transformations import Identity, set_transformation

    slide = slides["P3_S1"]
    for element in (slide.images["P3_S1_image"], slide.shapes["spots"]):
        set_transformation(element, {"global": Identity()}, set_all=True)
    before = snapshot(slide)
    with pytest.raises(ValueError, match="mpp") as raised:
        ds.tl.predict(slide, model, encoder=encoder)
    assert "set_scale" in str(raised.value)
    assert snapshot(slide) == before
    ds.pp.set_scale(slide, mpp=1.0)
    ds.tl.predict(slide, model, encoder=encoder)
    assert "deepspot_spots" in slide.tables


def test_a_slide_without_spots_names_the_call_that_adds_them(slides, model, encoder):
    slide = slides["P3_S1"]
    del slide.tables["table"], slide.shapes["spots"]
    size = {"diameter_um": model.geometry.tile.tile_um, "pitch_um": model.pitch_um}
    call = "ds.pp.spots(sdata, " + ", ".join(f"{name}={value:g}" for name, value in size.items()) + ")"
    with pytest.raises(KeyError) as raised:
        ds.tl.predict(slide, model, encoder=encoder)
    assert call in str(raised.value)
    with pytest.raises(KeyError, match=r"ds\.pp\.spots\(sdata\)"):
        ds.pp.embed(slide, encoder)
    ds.pp.spots(slide, **size)
    ds.tl.predict(slide, model, encoder=encoder)
    assert "deepspot_spots" in slide.tables
