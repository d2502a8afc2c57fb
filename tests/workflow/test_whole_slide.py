"""Whole slide images on the command line: predicted, reported and viewed, with the image where it was or elsewhere."""

import shutil

import numpy as np
import pytest
import tifffile
from spatialdata import read_zarr

import deepspot as ds
from deepspot import cli, encoders
from deepspot._workflow.steps import read_slide

pytestmark = [
    # anndata writes scanpy's record arrays in a way that zarr warns of; the command line keeps that to itself.
    pytest.mark.filterwarnings("ignore:The data type"),
    pytest.mark.filterwarnings("ignore:The table is annotating"),
]


@pytest.fixture(scope="module")
def bundle(toy, mean_color, tmp_path_factory):
    from spatialdata import deepcopy

    slides = {name: deepcopy(toy[name]) for name in ("P2_S1",)}
    genes = list(slides["P2_S1"].tables["table"].var_names[:12])
    options = {"network": {"width": 16, "members": 1}, "training": {"epochs": 3, "gate": "record"}, "seed": 0}
    path = tmp_path_factory.mktemp("model") / "model"
    ds.models.train(slides, genes=genes, encoder=mean_color(), **options).save(path)
    return path


@pytest.fixture(autouse=True, scope="module")
def registered(mean_color):
    """Register the cheap encoder, so that models find it by name."""
    real, cheap = encoders.get, mean_color()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "get", lambda encoder=None: cheap if encoder == "mean_color" else real(encoder))
        yield


@pytest.fixture(scope="module")
def image(toy, tmp_path_factory):
    """Whole slide of a toy tissue, at 1 µm per pixel. Read-only."""
    pixels = toy["P1_S1"].images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    path = tmp_path_factory.mktemp("image") / "slide.tif"
    options = {"tile": (256, 256), "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    tifffile.imwrite(path, np.ascontiguousarray(pixels), **options)
    return path


def predict(image, bundle, out):
    assert cli.main(["predict", str(image), "--model", str(bundle), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def predicted(image, bundle, tmp_path_factory):
    return predict(image, bundle, tmp_path_factory.mktemp("predicted") / "predicted.zarr")


@pytest.fixture
def store(predicted, tmp_path):
    """A store with a prediction of the image, which a test may change."""
    return shutil.copytree(predicted, tmp_path / "predicted.zarr")


def test_predict_streams_a_whole_slide_without_its_image(image, bundle, tmp_path, capsys):
    out = predict(image, bundle, tmp_path / "predicted.zarr")
    assert "deepspot report" in capsys.readouterr().out
    sdata = read_zarr(out)
    table = sdata.tables["deepspot_spots"]
    assert not sdata.images
    assert list(sdata.tables) == ["deepspot_spots"]
    expected = ds.io.slide(image)
    ds.pp.spots(expected, model=bundle)
    ds.tl.predict(expected, bundle)
    known = expected.tables["deepspot_spots"]
    assert set(table.obs_names) == set(known.obs_names)
    np.testing.assert_allclose(np.asarray(table.X), known[table.obs_names].X, atol=2e-3)


def test_report_and_view_of_a_file(image, bundle, tmp_path):
    for command, out, text in (("report", tmp_path / "a.html", "each 60 µm"), ("view", tmp_path / "b.html", "slide")):
        options = ["--genes", "1", "--diameter-um", "60", "--pitch-um", "150"]
        assert cli.main([command, str(image), "--model", str(bundle), "--out", str(out), *options]) == 0
        assert text in out.read_text()


def test_the_image_of_a_store_is_opened_again(store, tmp_path):
    assert cli.main(["report", str(store), "--out", str(tmp_path / "a.html"), "--genes", "1"]) == 0
    assert "data:image/jpeg" in (tmp_path / "a.html").read_text()
    assert not read_zarr(store).images


def test_a_moved_image(image, bundle, tmp_path, capsys):
    image = shutil.copy(image, tmp_path / "slide.tif")
    store = predict(image, bundle, tmp_path / "predicted.zarr")
    moved = image.rename(tmp_path / "moved.tif")
    report = ["report", str(store), "--out", str(tmp_path / "a.html"), "--genes", "1"]
    assert cli.main(report) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert str(image) in error
    assert "`--image`" in error
    assert cli.main([*report, "--image", str(moved)]) == 0


def test_another_image_is_refused(store, image, tmp_path):
    pixels = tifffile.imread(image)
    options = {"tile": (256, 256), "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "other.tif", pixels[::-1].copy(), **options)
    with pytest.raises(ValueError, match="another image than"):
        ds.io.predicted(store, image=tmp_path / "other.tif")
    with pytest.raises(FileNotFoundError, match=r"no image .*nothing\.tif"):
        ds.io.predicted(store, image=tmp_path / "nothing.tif")


def test_a_store_of_another_source_has_no_image_to_open(slide, bundle, cheap_encoder, tmp_path):
    ds.tl.predict(slide, bundle, encoder=cheap_encoder, out=tmp_path / "spots.zarr")
    with pytest.raises(ValueError, match="not read from a whole slide"):
        ds.io.predicted(tmp_path / "spots.zarr", image=True)


def test_a_part_is_loaded_if_all_is_too_large(store, monkeypatch, log):
    n = read_zarr(store).tables["deepspot_spots"].n_obs
    monkeypatch.setattr(ds.settings, "max_table_gb", n * 5 * 4 / 1e9)
    sdata = read_slide(store)
    table = sdata.tables["deepspot_spots"]
    assert table.shape == (n, 5)
    assert isinstance(table.X, np.ndarray)
    assert "only the 5 genes with the highest expected r" in " ".join(log)


def test_a_prediction_is_replaced_only_on_request(store, image, bundle, capsys):
    command = ["predict", str(image), "--model", str(bundle), "--out", str(store)]
    assert cli.main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0
    assert cli.main(["predict", str(store)]) == 2
    assert "Predict the image again" in " ".join(capsys.readouterr().err.split())


def test_options_of_other_slides_are_refused(store, image, tmp_path, capsys):
    out = ["--out", str(tmp_path / "a.html")]
    assert cli.main(["report", str(image), *out, "--bin-um", "8"]) == 2
    assert "`--bin-um` cannot be given for a whole slide image" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["report", str(store), *out, "--mpp", "0.5"]) == 2
    assert "`--mpp` cannot be given for a prediction" in " ".join(capsys.readouterr().err.split())
