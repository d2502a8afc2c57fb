import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import deepspot as ds
from deepspot._spatial.geometry import NeighborRule
from deepspot.models._lazyslide import _steps

zs = pytest.importorskip("lazyslide", reason="needs LazySlide, which is in the extra `test`")

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"
CPU = {"device": "cpu", "pbar": False}


@pytest.fixture(scope="session")
def train(toy, mean_color):
    """Train for a second."""
    from spatialdata import deepcopy

    def train(**network):
        return ds.models.train(
            {name: deepcopy(sdata) for name, sdata in toy.items()},
            patient_key="patient",
            genes=10,
            encoder=mean_color(),
            network={"width": 16, "members": 1} | network,
            training={"epochs": 3, "max_epochs": 3, "gate": "record"},
            seed=0,
        )

    return train


@pytest.fixture(scope="session")
def model(train):
    return train()


@pytest.fixture
def predictor(model, cheap_encoder):
    return model.on_tiles(mpp=1.0, encoder=cheap_encoder)


@pytest.fixture(scope="session")
def file(toy, tmp_path_factory):
    """A toy slide as a scanner writes it."""
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    image = toy["P1_S1"].images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    scale = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="zlib", **scale)
    return path


@pytest.fixture
def wsi(file):
    """The slide in LazySlide, with tiles of the model's size."""
    wsi = zs.open_wsi(file)
    zs.pp.tile_tissues(wsi, 54, stride_px=100, tissue_key=None)
    return wsi


@pytest.fixture
def ours(file, wsi):
    """The slide in SpatialData, with spots in the middle of these tiles."""
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    sdata = ds.io.slide(file)
    origins = wsi.shapes["tiles"].bounds[["minx", "miny"]].to_numpy()
    spots = ShapesModel.parse(origins + 27, geometry=0, radius=27, transformations={"global": Identity()})
    spots[["array_col", "array_row"]] = (origins / 100).astype(int)
    spots["diameter_um"] = 55.0
    sdata["spots"] = spots
    return sdata


def predicted(wsi, predictor):
    zs.tl.feature_extraction(wsi, predictor.image_model, **CPU)
    zs.tl.feature_prediction(wsi, predictor, **CPU)
    return wsi.tables["deepspot_tiles"]


def test_it_follows_the_protocols_of_lazyslide(predictor):
    from lazyslide_models.base import FeaturePredictionModelProtocol, ImageModelProtocol

    assert isinstance(predictor, FeaturePredictionModelProtocol)
    assert isinstance(predictor.image_model, ImageModelProtocol)
    assert (predictor.whole_slide, predictor.needs_coords) == (True, True)
    assert predictor.image_model.name == predictor.features_model_name == "mean_color_subspots"


def test_lazyslide_equals_ds_tl_predict(wsi, ours, predictor, cheap_encoder, model):
    assert (predictor.tile_px, predictor.stride_px, wsi.properties.mpp) == (54, 100, 1.0)
    theirs = predicted(wsi, predictor)
    assert wsi.tables["mean_color_subspots_tiles"].shape == (63, 270)
    ds.tl.predict(ours, model, encoder=cheap_encoder)
    expected = ours["deepspot_spots"]
    assert (expected.X.std(axis=0) > 0.1).sum() >= 5
    assert theirs.var_names.tolist() == expected.var_names.tolist()
    np.testing.assert_allclose(theirs.X, expected.X, atol=1e-4)
    alone = predictor.predict(wsi.tables["mean_color_subspots_tiles"].X, 1_000 * np.arange(126).reshape(63, 2))
    assert np.abs(np.column_stack(list(alone.values())) - expected.X).max() > 0.1


@pytest.mark.parametrize(
    ("context", "name", "width", "coords"),
    [
        (("spot",), "mean_color_spot", 27, False),
        (("spot", "neighbors"), "mean_color_spot", 27, True),
        (("spot", "subspots"), "mean_color_subspots", 270, False),
    ],
)
def test_models_without_subspots_or_neighbors(wsi, ours, cheap_encoder, train, context, name, width, coords):
    model = train(context=context)
    predictor = model.on_tiles(mpp=1.0, encoder=cheap_encoder)
    assert (predictor.features_model_name, predictor.width, predictor.needs_coords) == (name, width, coords)
    theirs = predicted(wsi, predictor)
    ds.tl.predict(ours, model, encoder=cheap_encoder)
    np.testing.assert_allclose(theirs.X, ours["deepspot_spots"].X, atol=1e-4)


@pytest.fixture
def boxed(model):
    """The model with neighbors from a box of the array, as the presets of the paper have them."""
    copy = pickle.loads(pickle.dumps(model))
    rule = {"neighbors": NeighborRule(kind="box", reach=1, cap=8)}
    copy.card = model.card.model_copy(update={"geometry": model.card.geometry.model_copy(update=rule)})
    return copy


def test_neighbors_in_steps_of_the_tiles(wsi, ours, cheap_encoder, boxed):
    predictor = boxed.on_tiles(mpp=1.0, encoder=cheap_encoder)
    theirs = predicted(wsi, predictor)
    ds.tl.predict(ours, boxed, encoder=cheap_encoder)
    np.testing.assert_allclose(theirs.X, ours["deepspot_spots"].X, atol=1e-4)
    with pytest.raises(ValueError, match=r"'deepspot' counts neighbors in steps .*`stride_px=round\(100 / mpp\)`"):
        predictor.stride_px  # noqa: B018


def square(n=5, step=200):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2) * step


def test_steps():
    array = square(step=1)
    np.testing.assert_array_equal(_steps(square() + 17), array)
    near = np.random.default_rng(0).integers(-2, 3, (25, 2))
    np.testing.assert_array_equal(_steps(square() + near) - _steps(square() + near)[0], array)
    two = _steps(np.concatenate([square(), square() + np.array([2100, 70])]))
    np.testing.assert_array_equal(two[25:] - two[25], array)
    assert two[25, 0] - two[24, 0] > 1
    assert _steps(np.array([[70, 80]])).tolist() == [[0, 0]]


def test_grid_steps_of_squares(boxed, cheap_encoder):
    places = square() * (1.0, np.sqrt(3) / 2) + np.where(square()[:, [1]] % 400, 100, 0) * (1, 0)
    with pytest.raises(ValueError, match="steps of a square array, but these tiles do not form a square grid"):
        boxed.on_tiles(mpp=0.5).predict(np.zeros((25, 270)), places)


def test_features_equal_ds_pp_embed(wsi, ours, predictor, cheap_encoder):
    ds.pp.embed(ours, cheap_encoder)
    zs.tl.feature_extraction(wsi, predictor.image_model, **CPU)
    table, features = ours["mean_color_spots"], wsi.tables["mean_color_subspots_tiles"].X
    np.testing.assert_array_equal(features[:, :27], table.X)
    np.testing.assert_array_equal(features[:, 27:], table.obsm["subspots"].reshape(63, -1))
    assert features.dtype == np.float32


def test_prediction_is_clipped_at_zero(model):
    below = pickle.loads(pickle.dumps(model))
    below.scaler = type(model.scaler)(mean=model.scaler.mean - 4, std=model.scaler.std)
    bags = ds.models.Bags(np.zeros((2, 27)), np.zeros((2, 9, 27)), np.zeros((2, 2)))
    says = below.predict(bags)
    assert (says < 0).any()
    assert (says > 0).any()
    genes = below.on_tiles(mpp=1.0).predict(np.zeros((2, 270)), np.array([[0, 0], [5_000, 0]]))
    found = np.column_stack(list(genes.values()))
    np.testing.assert_allclose(found, np.maximum(says, 0), atol=1e-5)
    assert list(genes) == model.card.genes
    assert found.dtype == np.float32


def test_tiles_of_another_size_are_refused(file, predictor):
    wsi = zs.open_wsi(file)
    zs.pp.tile_tissues(wsi, 64, tissue_key=None)
    with pytest.raises(
        ValueError, match=r"A tile is uint8 of shape \(64, 64, 3\), .* is 55 µm at 1 µm per pixel. Create"
    ):
        zs.tl.feature_extraction(wsi, predictor.image_model, **CPU)
    assert not wsi.tables


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 54, 54, 3), r"A tile is float32 of shape \(54, 54, 3\), .* without `transform=`"),
        (torch.zeros(2, 3, 54, 54, dtype=torch.uint8), r"A tile is uint8 of shape \(3, 54, 54\)"),
        (np.zeros((54, 54, 3), np.uint8), r"`image` must be of shape \(n, 54, 54, 3\), got \(54, 54, 3\)"),
    ],
)
def test_non_uint8_tiles_are_refused(predictor, batch, message):
    with pytest.raises(ValueError, match=message):
        predictor.image_model.encode_image(batch)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (4, 27),
            r"\(4, 27\), but model 'deepspot' needs 270 columns: the embedding of a tile by 'mean_color' \(27\),",
        ),
        (
            (4, 271),
            r"followed by its 3 × 3 sub-spots\. Compute them with `zs\.tl\.feature_extraction\(wsi, predictor\.image",
        ),
        ((270,), r"have shape \(270,\)"),
    ],
)
def test_features_of_another_length_are_refused(predictor, shape, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(np.zeros(shape), np.zeros((4, 2)))


def test_features_of_another_length_in_lazyslide(wsi, predictor, train, cheap_encoder):
    other = train(context=("spot", "neighbors")).on_tiles(mpp=1.0, encoder=cheap_encoder)
    zs.tl.feature_extraction(wsi, predictor.image_model, **CPU)
    with pytest.raises(ValueError, match=r"shape \(63, 270\), but model 'deepspot' needs 27 columns: the"):
        zs.tl.feature_prediction(wsi, other, "mean_color_subspots", **CPU)


@pytest.mark.parametrize(
    ("features", "coords", "message"),
    [
        (np.zeros((4, 270)), None, "`coords` is missing. The model needs the origins of all tiles to find neighbors"),
        (np.zeros((4, 270)), np.zeros((3, 2)), r"`coords` must be of shape \(4, 2\), got \(3, 2\)"),
        (np.zeros((4, 270)), np.full((4, 2), np.inf), "`coords` contains values that are not finite"),
        (np.full((4, 270), np.nan), np.zeros((4, 2)), "`features` contains values that are not finite"),
        (np.zeros((0, 270)), np.zeros((0, 2)), "`spot` is empty"),
    ],
)
def test_bad_input(predictor, features, coords, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(features, coords)


@pytest.mark.parametrize(
    ("mpp", "error", "message"),
    [
        (3.0, ValueError, r"too coarse: at 3 µm per pixel a tile of 55 µm has fewer than 20 px"),
        (0, ValueError, "`mpp` must be above 0"),
        (None, TypeError, "`mpp` must be a number, got NoneType"),
    ],
)
def test_bad_scale(model, mpp, error, message):
    with pytest.raises(error, match=message):
        model.on_tiles(mpp=mpp)


def test_models_without_geometry_are_refused(bags, targets):
    with pytest.raises(ValueError, match="not fitted yet"):
        ds.models.DeepSpot().on_tiles(mpp=0.5)
    quick = {"network": {"width": 8, "members": 1}, "training": {"epochs": 1, "gate": "off"}}
    bare = ds.models.DeepSpot(**quick).fit(bags, targets)
    with pytest.raises(ValueError, match="fitted to arrays, so its encoder and tile size are unknown"):
        bare.on_tiles(mpp=0.5)


def test_only_the_encoder_of_the_model(model, mean_color):
    with pytest.raises(ValueError, match="'mean_color' with other weights or preprocessing"):
        model.on_tiles(mpp=1.0, encoder=mean_color(fingerprint="2")).image_model  # noqa: B018
    with pytest.raises(KeyError, match="'mean_color'"):
        model.on_tiles(mpp=1.0).image_model  # noqa: B018


def test_out_of_distribution_tiles_are_logged(predictor, model, log):
    strange = np.tile(np.eye(27)[0], (4, 10))
    predictor.predict(strange, np.zeros((4, 2)))
    assert log[-1].startswith("100 % of the tiles are out-of-distribution: they differ from the training spots")
    log.clear()
    unknowing = pickle.loads(pickle.dumps(model))
    unknowing.ood = type(model.ood).unknown(27)
    unknowing.on_tiles(mpp=1.0).predict(strange, np.zeros((4, 2)))
    assert log == []


def test_workers_can_have_the_transform(predictor):
    tile = np.zeros((54, 54, 3), np.uint8)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(predictor.image_model.get_transform()))(tile), tile)


def test_device(predictor):
    assert predictor.to("cpu") is predictor
    assert predictor.device == torch.device("cpu")
    assert predictor.image_model.to("cpu") is predictor.image_model
    with pytest.raises(ValueError, match="`device` must be 'cpu', 'cuda'"):
        predictor.to("gpu")


def test_compiling_changes_nothing(wsi, predictor):
    first = predicted(wsi, predictor).X.copy()
    zs.tl.feature_extraction(wsi, predictor.image_model, compile=True, **CPU)
    zs.tl.feature_prediction(wsi, predictor, compile=True, **CPU)
    np.testing.assert_array_equal(wsi.tables["deepspot_tiles"].X, first)


def test_the_section_in_the_docs_runs(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    names = {}
    section = PAGE.read_text().split("\n## LazySlide\n")[1]
    for block in re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S):
        exec(block, names)
    assert names["sdata"].tables["resnet18_spots"].shape == (6, 512)
    table = names["wsi"].tables["her2st_tiles"]
    assert table.shape == (len(names["wsi"].shapes["tiles"]), 1000)
    assert len(table) > 1
