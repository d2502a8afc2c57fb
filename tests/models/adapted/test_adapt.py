import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import deepspot as ds
from deepspot._core.keys import SCALE

DIM = 27  # of the cheap encoder


class Features:
    """A predictor with LazySlide's protocol: one argument, batches, and outputs of both shapes."""

    features_model_name, needs_coords, whole_slide = "mean_color", False, False
    license = "MIT"

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model, self.calls = nn.Linear(DIM, 3), []

    name = "theirs"

    def get_transform(self):
        return None

    def to(self, device):
        self.model.to(device)
        return self

    def try_compile(self, **options):
        pass

    def predict(self, features):
        assert isinstance(features, np.ndarray)
        self.calls.append(len(features))
        out = self.model(torch.as_tensor(features))
        return {"A": out[:, 0], "B": out[:, 1:2], "C": out[:, 2].numpy()}


class Placed(Features):
    """Needs the origins of all tiles of a slide at once."""

    needs_coords = whole_slide = True

    def predict(self, features, coords):
        self.coords = coords
        self.calls.append(len(features))
        return {"A": coords[:, 0] - coords[:, 0].mean(), "B": coords[:, 1], "C": np.full(len(features), len(features))}


class Tiles(nn.Module):
    """A predictor of tiles with LazySlide's protocol and a transform of its own."""

    columns, name, license = ("R", "G"), "theirs", ["MIT", "CC0"]

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 2)
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
            self.model.bias.zero_()

    def get_transform(self):
        from torchvision.transforms.v2 import Compose, Resize, ToDtype, ToImage

        return Compose([ToImage(), ToDtype(torch.float32, scale=True), Resize((32, 32), antialias=True)])

    def predict(self, image):
        assert image.shape[1:] == (3, 32, 32)
        out = self.model(image.mean(dim=(2, 3))).numpy()
        return {"R": out[:, 0], "G": out[:, [1]]}


def mean_colors(tiles):
    assert tiles.dtype == np.uint8
    assert tiles.shape[1:] == (32, 32, 3)
    return tiles.mean(axis=(1, 2))[:, :2] / 255


@pytest.fixture
def of_features(cheap_encoder):
    return ds.models.adapt(Features(), encoder=cheap_encoder, tile_um=55)


@pytest.fixture
def of_tiles():
    return ds.models.adapt(mean_colors, genes=["R", "G"], tile_um=55, input_px=32)


def predicted(sdata, key="deepspot_spots"):
    table = sdata.tables[key]
    return np.asarray(table.X)


def test_features_are_predicted_in_one_argument(slide, of_features, cheap_encoder):
    card = of_features.card
    assert card.genes == ["A", "B", "C"]
    assert (card.name, card.license, card.scale, card.preset) == ("theirs", "MIT", "unknown", "adapted")
    assert card.encoder == cheap_encoder.card
    ds.tl.predict(slide, of_features)
    embedded = slide.tables["mean_color_spots"].X
    with torch.no_grad():
        expected = of_features.predictor.model(torch.as_tensor(embedded)).numpy()
    np.testing.assert_allclose(predicted(slide), expected, rtol=1e-5, atol=1e-6)
    assert (expected < 0).any()  # values of an unknown scale are not clipped
    table = slide.tables["deepspot_spots"]
    made = table.uns["deepspot"]
    assert "log1p" not in table.uns
    assert "ood" not in table.obs
    assert (made["scale"], made["expected_r_from"], made["license"]) == ("unknown", "not measured", "MIT")
    assert table.var["expected_r"].isna().all()


def test_origins_of_all_tiles_at_once(slide, cheap_encoder, monkeypatch, tmp_path):
    monkeypatch.setattr("deepspot.tl._predict.table.BLOCK_SIZE", 7)
    monkeypatch.setattr("deepspot.tl._predict.stream.ROWS", 7)
    placed = Placed()
    model = ds.models.adapt(placed, encoder=cheap_encoder, tile_um=55)
    ds.tl.predict(slide, model)
    centers = slide.tables["deepspot_spots"].obsm["spatial"]
    mpp = slide.tables["mean_color_spots"].uns["deepspot"]["mpp"]
    np.testing.assert_allclose(placed.coords, centers - 55 / mpp / 2)  # not the centers
    np.testing.assert_allclose(predicted(slide)[:, 1], centers[:, 1] - 55 / mpp / 2, rtol=1e-6)
    assert placed.calls[1:] == [30]  # the first call asks for the genes
    ds.tl.predict(slide, model, out=tmp_path / "out.zarr", key_added="disk")
    assert placed.calls[1:] == [30, 30]
    disk = slide.tables["disk"]
    names = slide.tables["deepspot_spots"].obs_names
    np.testing.assert_allclose(np.asarray(disk[names].X), predicted(slide), rtol=1e-6)
    ds.tl.predict(slide, model, resolution="grid")
    assert (predicted(slide, "deepspot_spots_grid")[:, 2] == len(slide.shapes["spots_grid"])).all()


def test_spots_are_predicted_in_batches(slide, of_features, monkeypatch):
    monkeypatch.setattr("deepspot.tl._predict.table.predict_in_blocks.__kwdefaults__", {"block_size": 7})
    ds.tl.predict(slide, of_features)
    assert max(of_features.predictor.calls) == 7


@pytest.mark.parametrize("kind", ["function", "protocol"])
def test_tiles_are_predicted(slide, of_tiles, kind):
    model = of_tiles if kind == "function" else ds.models.adapt(Tiles(), tile_um=55)
    assert model.card.genes == ["R", "G"]
    ds.tl.predict(slide, model)
    image = slide.images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    table = slide.tables["deepspot_spots"]
    mpp = slide.tables[table.uns["deepspot"]["features"]].uns["deepspot"]["mpp"]
    half = 55 / mpp / 2
    for (x, y), values in zip(table.obsm["spatial"][:5], predicted(slide), strict=False):
        part = image[round(y - half) : round(y + half), round(x - half) : round(x + half)]
        np.testing.assert_allclose(values, part.mean(axis=(0, 1))[:2] / 255, atol=0.02)


def test_license_of_several_parts_and_given_text():
    model = ds.models.adapt(Tiles(), tile_um=55, name="mine", tissue="breast", scale=SCALE)
    assert model.card.license == "MIT, CC0"
    assert (model.card.name, model.card.tissue, model.card.scale) == ("mine", "breast", SCALE)
    assert ds.models.adapt(Tiles(), tile_um=55, license="own").card.license == "own"


def test_the_encoder_that_the_object_names_is_looked_up():
    class Named(Features):
        features_model_name = "gigapath"

        def predict(self, features):
            return {"A": features[:, 0]}

    model = ds.models.adapt(Named())
    assert model.encoder_card.name == "prov-gigapath"
    assert model.geometry.tile.tile_um == pytest.approx(model.encoder_card.read_px * model.encoder_card.mpp)
    Named.features_model_name = "nobody"
    with pytest.raises(KeyError, match="Encoder 'nobody' of theirs is not registered"):
        ds.models.adapt(Named())
    Named.features_model_name = None
    with pytest.raises(ValueError, match="does not name the encoder"):
        ds.models.adapt(Named())


def test_features_that_others_made_need_no_weights(slide):
    card = ds.encoders.EncoderCard(name="theirs", dim=DIM)
    values = np.random.default_rng(0).normal(size=(30, DIM)).astype(np.float32)
    ds.pp.use_features(slide, values, encoder=card, tile_um=112)
    model = ds.models.adapt(Features(), encoder=card, tile_um=112)
    ds.tl.predict(slide, model)
    with torch.no_grad():
        np.testing.assert_allclose(
            predicted(slide), model.predictor.model(torch.as_tensor(values)), rtol=1e-5, atol=1e-6
        )


def wrong(**outputs):
    class Wrong(Features):
        def predict(self, features):
            return {key: value(len(features)) for key, value in outputs.items()}

    return Wrong()


@pytest.mark.parametrize(
    ("predictor", "error", "message"),
    [
        (wrong(A=lambda n: np.zeros(n + 1)), ValueError, r"shape \(3,\) for gene 'A' and 2 spots"),
        (wrong(A=lambda n: np.zeros((n, 2))), ValueError, r"shape \(2, 2\) for gene 'A'"),
        (wrong(A=lambda n: np.full(n, np.nan)), ValueError, "not finite"),
        (wrong(A=lambda n: np.array(["a"] * n)), TypeError, "must return numbers"),
        (wrong(), ValueError, "must return a mapping from different names"),
        (Features, TypeError, "Construct the object"),
        ("theirs", TypeError, "is no predictor"),
    ],
)
def test_wrong_outputs_are_refused(cheap_encoder, predictor, error, message):
    with pytest.raises(error, match=message):
        ds.models.adapt(predictor, encoder=cheap_encoder, tile_um=55)


def test_outputs_are_checked_in_every_call(slide, cheap_encoder):
    model = ds.models.adapt(wrong(A=lambda n: np.zeros(min(n, 2))), encoder=cheap_encoder, tile_um=55)
    with pytest.raises(ValueError, match=r"shape \(2,\) for gene 'A' and 30 spots"):
        ds.tl.predict(slide, model)
    assert "deepspot_spots" not in slide.tables
    model = ds.models.adapt(lambda tiles: np.zeros((len(tiles), 3)), genes=["R"], tile_um=55)
    with pytest.raises(ValueError, match=r"it must be \(.*, 1\)"):
        ds.tl.predict(slide, model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"genes": ["R", "G"]}, ValueError, "side of the tiles of mean_colors is unknown"),
        ({"genes": ["R", "G"], "tile_um": -1}, ValueError, "tile_um"),
        ({"tile_um": 55, "input_px": 32}, ValueError, "Pass the names of its columns as `genes=`"),
        ({"genes": ["R", "G"], "tile_um": 55, "encoder": "lite0"}, ValueError, "is a function of tiles"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        ds.models.adapt(mean_colors, **options)
    with pytest.raises(KeyError, match="does not predict 1 of 2 `genes`, first 'X'"):
        ds.models.adapt(Tiles(), genes=["R", "X"], tile_um=55)


def test_genes_can_be_chosen(slide, cheap_encoder):
    model = ds.models.adapt(Features(), encoder=cheap_encoder, genes=["C", "A"], tile_um=55)
    whole = ds.models.adapt(Features(), encoder=cheap_encoder, tile_um=55)
    ds.tl.predict(slide, model)
    ds.tl.predict(slide, whole, key_added="whole")
    np.testing.assert_array_equal(predicted(slide), predicted(slide, "whole")[:, [2, 0]])


def test_fingerprint_depends_on_weights_code_scale_and_settings(cheap_encoder):
    def of(predictor, **options):
        return ds.models.adapt(predictor, encoder=cheap_encoder, tile_um=55, **options).fingerprint

    known = of(Features())
    assert of(Features()) == known
    assert of(Features(seed=1)) != known
    assert of(Features(), scale=SCALE) != known
    changed = Features()
    changed.organ = "Kidney"
    assert of(changed) != known

    class Other(Features):
        def predict(self, features):
            return {gene: values * 2 for gene, values in Features.predict(self, features).items()}

    assert of(Other()) != known

    class Opaque:
        model, name = object(), "opaque"

        def predict(self, features):
            return {"A": features[:, 0]}

    with pytest.raises(ValueError, match="cannot be hashed"):
        of(Opaque())
    Opaque.fingerprint = "1"
    first = of(Opaque())
    Opaque.fingerprint = "2"
    assert of(Opaque()) != first


FACTOR = np.ones(3)
NET = nn.Linear(3, 1)


def helper(tiles):
    return tiles.mean(axis=(1, 2)) * FACTOR


def uses_globals(tiles):
    with torch.no_grad():
        return NET(torch.from_numpy(helper(tiles)).float()).numpy()


def test_what_a_function_uses_from_outside_is_part_of_its_fingerprint(monkeypatch):
    def fingerprint():
        return ds.models.adapt(uses_globals, genes=["R"], tile_um=55).fingerprint

    found = [fingerprint(), fingerprint()]
    monkeypatch.setitem(globals(), "FACTOR", np.full(3, 2.0))  # used by the helper
    found.append(fingerprint())
    other = nn.Linear(3, 1)
    nn.init.zeros_(other.weight)
    monkeypatch.setitem(globals(), "NET", other)
    found.append(fingerprint())
    monkeypatch.setitem(globals(), "helper", lambda tiles: tiles.mean(axis=(1, 2)))
    found.append(fingerprint())
    assert len(set(found)) == 4
    assert found[0] == found[1]


def test_a_function_with_unknown_content_needs_a_fingerprint():
    table = pd.DataFrame({"a": [1.0]})

    def predict(tiles):
        return tiles.mean(axis=(1, 2))[:, :1] * table["a"].iloc[0]

    with pytest.raises(ValueError, match="'predict' uses 'table', a DataFrame, whose content cannot be hashed"):
        ds.models.adapt(predict, genes=["R"], tile_um=55)
    predict.fingerprint = "1"
    assert ds.models.adapt(predict, genes=["R"], tile_um=55).card.genes == ["R"]


@pytest.mark.parametrize(
    ("genes", "error", "message"),
    [
        ("FASN", TypeError, r"Write \['FASN'\]"),
        ([], ValueError, "`genes` must name at least one gene"),
        (["A", "A"], ValueError, "each of them once"),
    ],
)
def test_wrong_genes(genes, error, message):
    with pytest.raises(error, match=message):
        ds.models.adapt(lambda tiles: tiles.mean(axis=(1, 2))[:, :1], genes=genes, tile_um=55)


def test_the_name_of_a_scale():
    model = ds.models.adapt(helper, genes=["R", "G", "B"], tile_um=55, scale="log1p_counts")
    assert model.card.scale == "log1p of raw counts"


def test_arrays_of_a_function_are_part_of_its_fingerprint():
    def make(weight):
        def predict(tiles):
            return tiles.mean(axis=(1, 2)) @ weight

        return ds.models.adapt(predict, genes=["R"], tile_um=55).fingerprint

    many = np.zeros((3, 1))
    assert make(many) == make(many.copy())
    assert make(many) != make(many + 1e-12)


def test_tables_are_reused(slide, of_features, cheap_encoder, log):
    ds.tl.predict(slide, of_features)
    n = cheap_encoder.n_tiles
    ds.tl.predict(slide, ds.models.adapt(Features(seed=1), encoder=cheap_encoder, tile_um=55), key_added="other")
    assert cheap_encoder.n_tiles == n


def test_functions_of_the_package_take_the_model(slide, cheap_encoder, tmp_path, log):
    class Real(Features):
        """Predicts measured genes, so that it can be compared."""

        def predict(self, features):
            shared = torch.as_tensor(features).mean(dim=1)
            return {gene: shared * (i + 1) for i, gene in enumerate(genes)}

    genes = list(slide.tables["table"].var_names[:10])
    model = ds.models.adapt(Real(), encoder=cheap_encoder, tile_um=55)
    ds.tl.predict(slide, model)
    ds.tl.evaluate(slide)
    assert any("errors, slopes and structural similarity are missing" in line for line in log)
    assert ds.tl.check_alignment(slide, model).verdict
    with pytest.raises(ValueError, match="counts are corrected on one of"):
        ds.tl.correct(slide, model)
    with pytest.raises(ValueError, match="has no intervals"):
        ds.tl.predict(slide, model, intervals=True, key_added="other")
    text = ds.report(slide, tmp_path / "report.html", model=model, genes=1).read_text()
    assert "was not checked for tissue unlike the training tissue" in text
    on_scale = ds.models.adapt(Real(), encoder=cheap_encoder, tile_um=55, scale=SCALE)
    with pytest.raises(ValueError, match=r"Train it with `ds.models.train`, calibrate it"):
        ds.tl.correct(slide, on_scale)
    ds.tl.correct(slide, on_scale, method="replace")
    with pytest.raises(ValueError, match="is not saved: it is code of another package"):
        model.save(tmp_path / "bundle")


def test_a_cohort_is_predicted_in_this_process(slide, of_tiles, tmp_path, log):
    import pandas as pd
    import tifffile

    image = slide.images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(256, 256), photometric="rgb")
    manifest = pd.DataFrame({"path": [str(tmp_path / "a.tif")], "patient": ["P1"], "mpp": [1.0]})
    runs = ds.cohort.run(manifest, of_tiles, tmp_path / "out", pitch_um=100)
    assert runs["status"].tolist() == ["done"]
    assert runs["ood_share"].isna().all()
    assert not (tmp_path / "out" / "model").exists()
    assert any("gets no bundle of model 'mean_colors'" in line for line in log)
    again = ds.cohort.run(manifest, of_tiles, tmp_path / "out", pitch_um=100)
    assert again["seconds"].tolist() == runs["seconds"].tolist()
    with pytest.raises(ValueError, match="cannot be sent to workers"):
        ds.cohort.run(manifest, of_tiles, tmp_path / "out", pitch_um=100, client="tcp://127.0.0.1:1")


def test_models_of_lazyslide_by_name():
    pytest.importorskip("lazyslide_models")
    for key, reason in {
        "path2space": "torch.export",
        "pathprofilerqc": "torch.export",
        "spider-breast": "trust_remote_code",
        "deepspotm": "which was not reviewed",
    }.items():
        with pytest.raises(ValueError, match=rf"'lazyslide:{key}' is not loaded: .*{reason}"):
            ds.models.load(f"lazyslide:{key}")
    with pytest.raises(KeyError, match="predictors in lazyslide_models"):
        ds.models.load("lazyslide:uni")
    with pytest.raises(ValueError, match="loads its own weights"):
        ds.models.load("lazyslide:stpath", token="hf_x")


def test_stpath_is_constructed_by_name(monkeypatch):
    models = pytest.importorskip("lazyslide_models")

    def init(self):
        self.model, self.fingerprint = nn.Identity(), "dummy weights"

    def predict(self, features, coords):
        assert features.shape[1] == 1536
        assert coords.shape == (len(features), 2)
        return {"ENSG1": features[:, 0]}

    kind = models.MODEL_REGISTRY["stpath"]
    monkeypatch.setattr(kind, "__init__", init)
    monkeypatch.setattr(kind, "predict", predict)
    model = ds.models.load("lazyslide:stpath", device="cpu")
    assert (model.card.name, model.card.license, model.device) == ("lazyslide:stpath", "Unlicensed", "cpu")
    assert model.encoder_card.name == "prov-gigapath"
    assert model.whole_slide
    assert model.geometry.tile.tile_um == pytest.approx(128)
