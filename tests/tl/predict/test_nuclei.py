"""Models whose sub-spots are nuclei, on slides where only the nuclei show the expression."""

from functools import partial

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from spatialdata import deepcopy, read_zarr
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._sdata.tables import match_rows
from deepspot.models._lazyslide import TilePredictor

SPOTS, PITCH, SIDE = 30, 100, 60
GENES = ["A", "B", *(f"NOISE{number}" for number in range(28))]
OPTIONS = {"patient_key": "patient", "genes": GENES, "seed": 0}
NETWORK = {"width": 16, "members": 1, "context": ("subspots",)}


def slide_of_patient(patient):
    """Spots of 3 × 3 parts. Some are nuclei, whose mean red is the level of gene "A"; the others have any red."""
    rng = np.random.default_rng(patient)
    centers = 60 + PITCH * np.stack(np.divmod(np.arange(SPOTS), 6), axis=1)[:, ::-1].astype(float)
    image = np.full((560, 660, 3), 255, np.uint8)
    places, level = [], np.zeros(SPOTS)
    for i, center in enumerate(centers):
        red = rng.integers(0, 256, 9)
        nuclei = rng.permutation(9)[: rng.integers(0, 6)]
        for k in range(9):
            x, y = (center + 20 * (np.array([k % 3, k // 3]) - 1)).astype(int)
            image[y - 10 : y + 10, x - 10 : x + 10] = (red[k], 100, 200)
        places += [center + 20 * (np.array([k % 3, k // 3]) - 1) for k in nuclei]
        level[i] = red[nuclei].mean() / 255 if len(nuclei) else 0
    first = (10 + 400 * level).astype(int)
    noise = rng.poisson(np.geomspace(3, 60, len(GENES) - 2), (SPOTS, len(GENES) - 2))
    counts = np.column_stack([first, 1000 - first, noise]).astype(np.float32)
    obs = pd.DataFrame({"patient": f"P{patient}"}, index=[f"P{patient}_{i}" for i in range(SPOTS)])
    table = AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES), obsm={"spatial": centers})
    sdata = ds.io.from_anndata(table, image, mpp=1.0, diameter_um=SIDE, name="he")
    x, y = np.array(places).T
    shapes = gpd.GeoDataFrame(geometry=shapely.box(x - 4, y - 4, x + 4, y + 4))
    sdata.shapes["he_image_nuclei"] = ShapesModel.parse(shapes, transformations={"global": Identity()})
    return sdata


@pytest.fixture(scope="module")
def cohort():
    return {f"P{patient}": slide_of_patient(patient) for patient in (1, 2, 3)}


def train(cohort, encoder, names=("P1", "P2"), **options):
    slides = {name: deepcopy(cohort[name]) for name in names}
    network = NETWORK | options.pop("network", {})
    training = {"epochs": 3, "max_epochs": 3} | options.pop("training", {})
    tiles = {"subspots": "nuclei"}
    return ds.models.train(
        slides, encoder=encoder, tiles=tiles, network=network, training=training, **OPTIONS, **options
    )


@pytest.fixture(scope="module")
def model(cohort, mean_color):
    return train(cohort, mean_color())


@pytest.fixture
def slide(cohort):
    return deepcopy(cohort["P3"])


def r_of_gene(slide, key="deepspot_spots"):
    return np.corrcoef(slide[key][:, "A"].X.ravel(), np.log1p(slide["table"][:, "A"].X.ravel()))[0, 1]


def test_only_nuclei_show_the_gene(cohort, cheap_encoder):
    slides = {name: deepcopy(sdata) for name, sdata in cohort.items()}
    ridge = partial(ds.models.Ridge, context=("subspots",))
    tiles, nuclei = {"subspots": "tiles"}, {"subspots": "nuclei"}
    settings = {"tiles": [tiles], "nuclei": [nuclei], "chosen": [tiles, nuclei]}
    cv = ds.models.cross_validate(
        slides,
        models=dict.fromkeys(settings, ridge),
        grid={name: {"tiles": values} for name, values in settings.items()},
        encoder=cheap_encoder,
        **OPTIONS,
    )
    r = cv.scores[cv.scores["gene"].isin(["A", "B"])].groupby("model", observed=True)["r"].mean()
    assert r["nuclei"] > 0.8
    assert r["tiles"] < 0.6
    assert r["chosen"] == r["nuclei"]
    assert cv.chosen("chosen")["tiles"] == nuclei
    assert abs(r["shuffled images"]) < 0.5


def test_train_save_load_and_predict_another_slide(model, slide, cheap_encoder, tmp_path):
    assert model.card.geometry.tile.subspots == "nuclei"
    model.save(tmp_path / "model")
    loaded = ds.models.load(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint
    assert loaded.card.geometry == model.card.geometry
    ds.tl.predict(slide, loaded, encoder=cheap_encoder)
    assert r_of_gene(slide) > 0.7
    features = slide[slide["deepspot_spots"].uns["deepspot"]["features"]]
    assert (features.obsm["subspots_present"].sum(axis=1) == 0).any()
    slide.write(tmp_path / "slide.zarr")
    again, before = read_zarr(tmp_path / "slide.zarr"), cheap_encoder.n_tiles
    ds.tl.predict(again, model, encoder=cheap_encoder, overwrite=True)
    assert cheap_encoder.n_tiles == before
    np.testing.assert_array_equal(again["deepspot_spots"].X, slide["deepspot_spots"].X)


def test_the_card_says_it(model):
    page = model.card.to_markdown()
    assert r"| sub-spots | the nuclei of the spot (shapes &lt;image&gt;\_nuclei), each in a tile 20 µm wide |" in page
    assert "3 × 3, each" not in page


def test_streaming_gives_the_same(model, slide, cheap_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr("deepspot.tl._predict.stream.ROWS", 8)
    ds.tl.predict(slide, model, encoder=cheap_encoder)
    before = cheap_encoder.n_tiles
    ds.tl.predict(slide, model, encoder=cheap_encoder, out=tmp_path / "out.zarr", key_added="streamed")
    assert cheap_encoder.n_tiles - before == SPOTS + len(slide["he_image_nuclei"])
    rows, _ = match_rows(slide["streamed"], slide, "spots")
    np.testing.assert_allclose(np.asarray(slide["streamed"].X)[rows], slide["deepspot_spots"].X, atol=2e-3)
    # Kept embeddings are not used for other nuclei.
    before = cheap_encoder.n_tiles
    slide.shapes["he_image_nuclei"] = slide["he_image_nuclei"].iloc[3:]
    ds.tl.predict(slide, model, encoder=cheap_encoder, out=tmp_path / "other.zarr", key_added="other")
    assert cheap_encoder.n_tiles - before == SPOTS + len(slide["he_image_nuclei"])


def test_a_nucleus_is_predicted_as_the_set_of_itself(model, slide, cheap_encoder):
    del slide["spots"]["diameter_um"]  # nothing is scaled to spots of unknown size
    ds.tl.predict(slide, model, encoder=cheap_encoder, resolution="cell", shapes_key="he_image_nuclei")
    table, features = slide["deepspot_he_image_nuclei"], slide["mean_color_he_image_nuclei"]
    assert features.obsm["subspots"].shape == (len(slide["he_image_nuclei"]), 1, 27)
    image = np.asarray(slide["he_image"].data)
    x, y = (axis.astype(int) for axis in (table.obsm["spatial"][:, 0], table.obsm["spatial"][:, 1]))
    np.testing.assert_array_equal(features.obsm["subspots"][:, 0].reshape(-1, 9, 3)[:, 4, 0], image[0, y, x] / 32)
    neighbors = np.zeros((len(x), len(x)), dtype=bool)
    bags = Bags(np.asarray(features.X), features.obsm["subspots"], neighbors)
    np.testing.assert_allclose(table.X, model.predict(bags).clip(0), atol=1e-5)
    assert np.corrcoef(table[:, "A"].X.ravel(), image[0, y, x])[0, 1] > 0.8


def test_nuclei_in_spots_get_the_mean_of_their_spot(model, slide, cheap_encoder):
    ds.tl.predict(slide, model, encoder=cheap_encoder, resolution="cell", shapes_key="he_image_nuclei")
    ds.tl.predict(slide, model, encoder=cheap_encoder)
    cells = slide["deepspot_he_image_nuclei"]
    distance = np.linalg.norm(cells.obsm["spatial"][:, None] - slide["deepspot_spots"].obsm["spatial"], axis=-1)
    mean = pd.DataFrame(np.expm1(cells.X)).groupby(distance.argmin(axis=1)).mean()
    np.testing.assert_allclose(mean, np.expm1(slide["deepspot_spots"].X)[mean.index], rtol=1e-4)


def test_a_prediction_from_other_nuclei_is_not_reused(model, slide, cheap_encoder):
    """Cells are scaled to the spots as they are with the present nuclei."""
    ds.tl.predict(slide, model, encoder=cheap_encoder)
    slide.shapes["he_image_nuclei"] = slide["he_image_nuclei"].iloc[::2]
    ds.tl.predict(slide, model, encoder=cheap_encoder, resolution="cell", shapes_key="he_image_nuclei")
    ds.tl.predict(slide, model, encoder=cheap_encoder, key_added="now")
    cells, now = slide["deepspot_he_image_nuclei"], slide["now"]
    distance = np.linalg.norm(cells.obsm["spatial"][:, None] - now.obsm["spatial"], axis=-1)
    mean = pd.DataFrame(np.expm1(cells.X)).groupby(distance.argmin(axis=1)).mean()
    np.testing.assert_allclose(mean, np.expm1(now.X)[mean.index], rtol=1e-4)
    assert np.abs(now.X - slide["deepspot_spots"].X).max() > 0.01


def test_a_sum_over_nuclei_is_not_scaled(cohort, cheap_encoder):
    summing = train(cohort, cheap_encoder, ["P1"], network={"subspot_pooling": "sum"}, training={"gate": "off"})
    rng = np.random.default_rng(0)
    spot, one = rng.random((5, 27), dtype=np.float32), rng.random((5, 1, 27)).astype(np.float16)
    none = np.zeros((5, 5), dtype=bool)
    padded = np.concatenate([one, np.zeros((5, 2, 27), np.float16)], axis=1)
    present = np.tile([True, False, False], (5, 1))
    np.testing.assert_allclose(
        summing.predict(Bags(spot, one, none)), summing.predict(Bags(spot, padded, none, present=present)), atol=1e-5
    )


def test_nuclei_of_another_name(cohort, slide, cheap_encoder):
    slides = {name: deepcopy(cohort[name]) for name in ("P1", "P2")}
    for sdata in [*slides.values(), slide]:
        sdata.shapes["cellpose"] = sdata.shapes.pop("he_image_nuclei")
    cells = partial(train, encoder=cheap_encoder, training={"gate": "off"})
    with pytest.raises(KeyError, match=r"no shapes 'he_image_nuclei'") as caught:
        cells(slides)
    assert caught.value.__notes__ == ["This happened on slide 'P1'."]
    assert cheap_encoder.n_tiles == 0
    named = cells(slides, keys={"nuclei_key": "cellpose"})
    assert "(shapes cellpose)" in named.card.to_markdown()
    ds.tl.predict(slide, named, encoder=cheap_encoder)
    slide.shapes["cells"] = slide.shapes.pop("cellpose")
    slide.shapes["other"], before = slide["spots"].copy(), cheap_encoder.n_tiles
    for options in ({"shapes_key": "other"}, {"shapes_key": "cells", "resolution": "cell"}):
        with pytest.raises(KeyError, match="no shapes 'cellpose'"):
            ds.tl.predict(slide, named, encoder=cheap_encoder, **options)
    assert cheap_encoder.n_tiles == before


def test_training_on_a_feature_table(cohort, model, cheap_encoder):
    slides = {name: deepcopy(cohort[name]) for name in ("P1", "P2")}
    for sdata in slides.values():
        ds.pp.embed(sdata, cheap_encoder, subspots="nuclei", key_added="mine")
    same = train(slides, None, keys={"features_key": "mine"})
    assert same.card.geometry == model.card.geometry
    assert same.fingerprint == model.fingerprint


def test_what_nuclei_cannot_do(model, slide, cheap_encoder, tmp_path):
    for resolution in ("subspot", "grid"):
        with pytest.raises(ValueError, match="are nuclei, which are no parts of the spot tile"):
            ds.tl.predict(slide, model, encoder=cheap_encoder, resolution=resolution)
    with pytest.raises(ValueError, match="tiles of LazySlide have no nuclei"):
        TilePredictor(model, 1.0, cheap_encoder)
    pd.DataFrame({"path": ["a.svs"], "patient": ["P1"]}).to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(ValueError, match="are nuclei, which a cohort does not segment"):
        ds.cohort.run(tmp_path / "manifest.csv", model, tmp_path / "out", encoder=cheap_encoder)
    assert not (tmp_path / "out").exists()
    assert cheap_encoder.n_tiles == 0


def test_a_model_without_subspots_ignores_nuclei(cohort, cheap_encoder):
    model = train(cohort, cheap_encoder, ["P1"], network={"context": ("spot",)}, training={"gate": "off"})
    assert model.card.geometry.tile.subspots == "tiles"
    assert cheap_encoder.n_tiles == SPOTS
