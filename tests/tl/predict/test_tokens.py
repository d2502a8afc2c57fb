"""Models whose sub-spots come from one pass of the encoder."""

import numpy as np
import pytest
from spatialdata import deepcopy

import deepspot as ds
from deepspot._features.feature_table import SlideFeatures
from deepspot._sdata.tables import match_rows
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import TileGeometry
from deepspot.models._lazyslide import TilePredictor

SPOTS = 30


@pytest.fixture
def exact(quick, exact_encoder):
    return quick | {"encoder": exact_encoder}


@pytest.fixture(scope="module")
def models(toy, exact_color):
    """The same training from tiles and from tokens, with an encoder that gives equal embeddings for both."""
    slides, encoder, made = {name: deepcopy(sdata) for name, sdata in toy.items()}, exact_color(), {}
    for way in ("tiles", "tokens"):
        asked = encoder.n_tiles
        made[way] = ds.models.train(
            slides,
            patient_key="patient",
            genes=10,
            encoder=encoder,
            tiles={"subspots": way},
            seed=0,
            network={"width": 16, "members": 1},
            training={"epochs": 3, "max_epochs": 3, "gate": "record"},
        )
        made[f"{way} asked"] = encoder.n_tiles - asked
    return made


def test_training_embeds_one_tile_instead_of_ten(models):
    assert (models["tiles asked"], models["tokens asked"]) == (2 * SPOTS * 10, 2 * SPOTS)
    tiles, tokens = (models[way].card for way in ("tiles", "tokens"))
    assert tokens.geometry.tile == tiles.geometry.tile.model_copy(update={"subspots": "tokens"})
    assert "from one pass over the tile" in tokens.to_markdown()
    assert "from one pass over the tile" not in tiles.to_markdown()


def test_the_bundle_stores_it(models, tmp_path):
    for way in ("tiles", "tokens"):
        models[way].save(tmp_path / way)
        assert ds.models.load(tmp_path / way).card.geometry.tile.subspots == way
        assert ('"tokens"' in (tmp_path / way / "card.json").read_text()) == (way == "tokens")


@pytest.mark.parametrize(("resolution", "tiles"), [("spot", (300, 30)), ("subspot", (300, 30)), ("grid", (2, 1))])
def test_prediction_takes_it_from_the_model(toy, models, exact_encoder, resolution, tiles):
    slide, asked, made = deepcopy(toy["P1_S1"]), [], []
    for way in ("tiles", "tokens"):
        before = exact_encoder.n_tiles
        ds.tl.predict(slide, models[way], encoder=exact_encoder, resolution=resolution, key_added=way)
        asked.append(exact_encoder.n_tiles - before)
        made.append(np.asarray(slide[way].X))
        if resolution == "grid":
            ds.tl.predict(slide, models[way], encoder=exact_encoder, resolution=resolution, key_added=f"{way}_again")
            assert exact_encoder.n_tiles == before + asked[-1]
    points = len(made[0]) if resolution == "grid" else 1
    assert asked == [n * points for n in tiles]
    np.testing.assert_allclose(made[1], made[0], atol=1e-5)
    assert made[0].std() > 0.01


def test_features_of_the_other_kind_are_not_used(slide, models, exact_encoder):
    ds.pp.embed(slide, exact_encoder)
    ds.tl.predict(slide, models["tokens"], encoder=exact_encoder)
    features = slide[slide["deepspot_spots"].uns["deepspot"]["features"]]
    assert features.uns["deepspot"]["geometry"]["subspots"] == "tokens"


def test_streaming_follows_the_model(slide, models, exact_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    found = {}
    for way, passes in (("tiles", 10), ("tokens", 1)):
        before = exact_encoder.n_tiles
        options = {"encoder": exact_encoder, "out": tmp_path / f"{way}.zarr", "key_added": way}
        ds.tl.predict(slide, models[way], **options)
        assert exact_encoder.n_tiles - before == passes * SPOTS  # embeddings of one way are not those of the other
        rows, _ = match_rows(slide[way], slide, "spots")
        found[way] = np.asarray(slide[way].X)[rows]
    np.testing.assert_allclose(found["tokens"], found["tiles"], atol=1e-5)


def test_lazyslide_gets_features_of_the_same_kind(models, exact_encoder):
    names, made = [], []
    tiles = np.random.default_rng(0).integers(0, 256, (3, 54, 54, 3), dtype=np.uint8)
    for way, passes in (("tiles", 10), ("tokens", 1)):
        predictor = TilePredictor(models[way], 1.0, exact_encoder)
        before = exact_encoder.n_tiles
        made.append(predictor.image_model.encode_image(tiles))
        assert exact_encoder.n_tiles - before == 3 * passes
        names.append(predictor.image_model.name)
    assert names == ["mean_color_subspots", "mean_color_tokens"]
    np.testing.assert_array_equal(*made)


def test_a_model_without_subspots_ignores_it(slides, exact):
    network = exact["network"] | {"context": ("spot", "neighbors")}
    model = ds.models.train(slides, tiles={"subspots": "tokens"}, **exact | {"network": network})
    assert model.card.geometry.tile.subspots == "tiles"
    assert exact["encoder"].n_tiles == 2 * SPOTS


def test_an_encoder_without_tokens_is_refused_before_anything_is_read(slides, quick, monkeypatch):
    monkeypatch.setattr("deepspot._sdata.view.pyramid_levels", lambda *_: pytest.fail("pixels were read"))
    monkeypatch.setattr("deepspot.models._training.plan.measure", lambda *_, **__: pytest.fail("counts were read"))
    with pytest.raises(ValueError, match="'mean_color' returns one vector per tile"):
        ds.models.train(slides, tiles={"subspots": "tokens"}, **quick)
    with pytest.raises(ValueError, match="'mean_color' returns one vector per tile"):
        ds.models.cross_validate(
            slides, patient_key="patient", models=["ridge"], encoder=quick["encoder"], tiles={"subspots": "tokens"}
        )
    assert all(list(sdata.tables) == ["table"] for sdata in slides.values())


@pytest.mark.parametrize("subspots", ["map", False])
def test_unknown_values_of_subspots(slides, quick, subspots):
    with pytest.raises(ValueError, match="subspots"):
        ds.models.train(slides, tiles={"subspots": subspots}, **quick)


def test_cross_validation_compares_on_tokens(slides, exact):
    options = {"patient_key": "patient", "models": ["ridge"], "genes": 10, "encoder": exact["encoder"], "seed": 0}
    found = [
        ds.models.cross_validate(slides, tiles={"subspots": way}, **options).areas() for way in ("tiles", "tokens")
    ]
    assert exact["encoder"].n_tiles == 2 * SPOTS * 11
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'ridge' uses sub-spots"):
        ds.models.cross_validate(slides, tiles={"subspots": False}, **options)


def test_size_limits_include_all_subspots(slide, exact_encoder):
    sizes = []
    for way in ("tiles", "tokens"):
        geometry = TileGeometry(tile_um=55, input_px=32, subspots=way)
        features = SlideFeatures(SlideView.select(slide), exact_encoder, geometry)
        sizes.append(features.n_subspots)
        assert features.tokens == (way == "tokens")
    assert sizes == [9, 9]
