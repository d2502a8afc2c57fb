"""A model that normalizes stains does so on every slide that it predicts, without any argument."""

import numpy as np
import pytest
from spatialdata import deepcopy

import deepspot as ds
from deepspot._spatial.geometry import TileGeometry

QUICK = {
    "network": {"width": 16, "members": 1, "context": ("spot", "neighbors")},
    "training": {"epochs": 3, "max_epochs": 3, "gate": "record"},
    "seed": 0,
    "patient_key": "patient",
    "genes": 10,
}


@pytest.fixture(scope="module")
def laboratories():
    """The same tissue and counts with the stains of two laboratories."""
    made = [ds.datasets.toy(2, n_rows=5, n_cols=6, stain_shift=shift, seed=3) for shift in (0.0, 1.0)]
    return [slides["P1_S1"] for slides in made], made[0]


@pytest.fixture(scope="module")
def models(laboratories, mean_color):
    _, slides = laboratories
    return {
        stain: ds.models.train(deepcopies(slides), encoder=mean_color(), tiles={"stain": stain}, **QUICK)
        for stain in (None, "macenko")
    }


def deepcopies(slides):
    return {name: deepcopy(sdata) for name, sdata in slides.items()}


def predicted(slide, model, encoder):
    sdata = deepcopy(slide)
    ds.tl.predict(sdata, model, encoder=encoder)
    return sdata


def test_prediction_normalizes_by_itself(laboratories, models, mean_color):
    (one, other), _ = laboratories
    away = {}
    for stain, model in models.items():
        first, second = (predicted(slide, model, mean_color())["deepspot_spots"].X for slide in (one, other))
        away[stain] = np.abs(first - second).mean() / first.std()
    assert away["macenko"] < 0.5 * away[None]


def test_the_reference_travels_with_the_model(laboratories, models, mean_color, tmp_path):
    (_, other), _ = laboratories
    model = models["macenko"]
    model.save(tmp_path / "model")
    loaded = ds.models.load(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint
    assert loaded.card.geometry.tile.stain.method == "macenko"
    assert loaded.card.geometry.tile.stain.strengths == (1.9705, 1.0308)
    assert "normalized to the reference" in loaded.card.to_markdown()
    sdata = predicted(other, loaded, mean_color())
    expected = predicted(other, model, mean_color())
    np.testing.assert_array_equal(sdata["deepspot_spots"].X, expected["deepspot_spots"].X)
    geometry = sdata["mean_color_spots"].uns["deepspot"]["geometry"]
    assert TileGeometry.model_validate(geometry).stain == loaded.card.geometry.tile.stain
    sdata.write(tmp_path / "slide.zarr")


def test_bundles_without_it_are_unchanged(models, tmp_path):
    models[None].save(tmp_path / "model")
    assert '"stain"' not in (tmp_path / "model" / "card.json").read_text()
    assert TileGeometry(tile_um=55, input_px=224).model_dump() == {"tile_um": 55, "input_px": 224, "grid": 3}


def test_features_are_told_apart(laboratories, models, mean_color):
    (_, other), _ = laboratories
    sdata, encoder = deepcopy(other), mean_color()
    ds.pp.embed(sdata, encoder, subspots=False)
    ds.pp.embed(sdata, encoder, subspots=False, stain="macenko")
    plain, normalized = (sdata[key] for key in sdata.tables if key.startswith("mean_color"))
    assert plain.uns["deepspot"]["fingerprint"] != normalized.uns["deepspot"]["fingerprint"]
    assert np.abs(plain.X - normalized.X).mean() > 0.1
    seen = encoder.n_tiles
    ds.tl.predict(sdata, models["macenko"], encoder=encoder)
    assert encoder.n_tiles == seen
    key = sdata["deepspot_spots"].uns["deepspot"]["features"]
    assert sdata[key] is normalized or np.array_equal(sdata[key].X, normalized.X)
    with pytest.raises(ValueError, match="normalization of their stains"):
        ds.models.train(sdata, keys={"features_key": "mean_color_spots"}, tiles={"stain": "macenko"}, **QUICK)


def test_bad_arguments(slide, models):
    with pytest.raises(KeyError, match="macenko"):
        ds.pp.embed(slide, stain="other")
    reference = models["macenko"].card.geometry.tile.stain.model_dump()
    with pytest.raises(ValueError, match="length 1"):
        TileGeometry(tile_um=55, input_px=224, stain=reference | {"eosin": [0, 0, 0]})
    with pytest.raises(ValueError, match="stain"):
        ds.models.TileConfig(stain="other")
    with pytest.raises(ValueError, match="normalizes the stains"):
        models["macenko"].on_tiles(mpp=1.0)
