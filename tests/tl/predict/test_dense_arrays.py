"""Slides whose spots are nearer to each other, or farther apart, than those of the training."""

import numpy as np
import pytest
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import deepspot as ds
from deepspot._spatial.transforms import pitch_px


def add_spots(sdata, key, centers):
    transformations = get_transformation(sdata.shapes["spots"], get_all=True)
    shapes = ShapesModel.parse(np.asarray(centers), geometry=0, radius=10, transformations=transformations)
    shapes["diameter_um"] = 55.0
    sdata.shapes[key] = shapes


def dense(centers):
    """The spots, followed by points half way and a quarter of the way to their neighbors."""
    pitch = pitch_px(centers)
    first, second = np.nonzero(np.linalg.norm(centers[:, None] - centers, axis=2) < 1.2 * pitch)
    ways = [(1 - share) * centers[first] + share * centers[second] for share in (0.25, 0.5)]
    more = np.unique(np.concatenate(ways).round(6), axis=0)
    apart = np.linalg.norm(more[:, None] - centers, axis=2).min(axis=1) > 1
    return np.concatenate([centers, more[apart]])


@pytest.mark.parametrize("streamed", [False, True])
def test_more_spots_do_not_change_the_prediction(slide, quick_model, cheap_encoder, tmp_path, log, streamed):
    centers = np.column_stack([slide.shapes["spots"].geometry.x, slide.shapes["spots"].geometry.y])
    add_spots(slide, "dense", dense(centers))
    out = {"out": tmp_path / "dense.zarr"} if streamed else {}
    ds.tl.predict(slide, quick_model, shapes_key="spots", encoder=cheap_encoder)
    assert not any("apart in training" in line for line in log)
    ds.tl.predict(slide, quick_model, shapes_key="dense", encoder=cheap_encoder, **out)
    assert any("25 µm apart, and the spots of the training 100 µm" in line for line in log)
    table = slide.tables["deepspot_dense"]
    order = np.argsort(table.obs["instance_id" if "instance_id" in table.obs else "spot_id"].to_numpy())
    found = np.asarray(table.X)[order][: len(centers)]
    np.testing.assert_allclose(found, slide.tables["deepspot_spots"].X, rtol=1e-2 if streamed else 1e-5, atol=1e-3)


def test_spots_that_are_farther_apart(slide, quick_model, cheap_encoder, log):
    centers = np.column_stack([slide.shapes["spots"].geometry.x, slide.shapes["spots"].geometry.y])
    add_spots(slide, "few", centers[np.argsort(centers[:, 0])][::7])
    ds.tl.predict(slide, quick_model, shapes_key="few", encoder=cheap_encoder)
    assert any("neighbors are farther away than in training" in line for line in log)


def test_the_card_states_the_pitch(slides, quick, tmp_path):
    model = ds.models.train(slides, **quick, tiles={"radius_um": 180})
    assert model.pitch_um == 100
    boxed = ds.models.train(slides, **{**quick, "preset": "paper", "network": {"width": 4}})
    assert boxed.pitch_um == 100
    boxed.save(tmp_path / "boxed")
    assert ds.models.load(tmp_path / "boxed").geometry == boxed.card.geometry


def test_a_card_without_a_pitch_is_that_of_the_embedded_model():
    model = ds.models.load()
    assert model.fingerprint == "9a1e5c66508e6e13"
    geometry = model.card.geometry
    assert (geometry.neighbors.pitch_um, geometry.neighbors.layout) == (200.6, "square")
    unknown = geometry.neighbors.model_copy(update={"pitch_um": None})
    model.card = model.card.model_copy(update={"geometry": geometry.model_copy(update={"neighbors": unknown})})
    rule = model.geometry.neighbors
    assert (rule.pitch_um, rule.layout, model.pitch_um) == (200.7, "square", 200.7)
