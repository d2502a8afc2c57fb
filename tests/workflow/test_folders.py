"""Output folders of Visium HD and Xenium on the command line: bins and cells are predicted as spots."""

import numpy as np
import pytest
import spatialdata

import deepspot as ds
from deepspot import cli, encoders
from deepspot._workflow.steps import read_slide

from ..io import test_visium_hd, test_xenium

# Folders in the layouts of 10x Genomics, as the tests of the readers write them.
visium_hd, xenium = test_visium_hd.outs, test_xenium.outs

IMAGES = {"visium_hd": "slide.btf", "xenium": "lung_he_image.ome.tif"}
SHAPES = {"visium_hd": "outs_square_016um", "xenium": "cell_boundaries"}
TABLES = {"visium_hd": "square_016um", "xenium": "table"}
# Bins in tissue with counts, and cells that the image shows.
N = {"visium_hd": 41, "xenium": 30}

pytestmark = pytest.mark.filterwarnings("ignore:The data type")


@pytest.fixture
def bundle(slide, cheap_encoder, tmp_path, monkeypatch):
    """A model of tiles of 20 µm on a cheap encoder, which is registered during the test."""
    real = encoders.get
    known = ("mean_color", cheap_encoder)
    monkeypatch.setattr(encoders, "get", lambda encoder=None: cheap_encoder if encoder in known else real(encoder))
    options = {"network": {"width": 8, "members": 1}, "training": {"epochs": 2}, "tiles": {"tile_um": 20}}
    ds.models.train(slide, genes=4, encoder=cheap_encoder, **options).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(params=IMAGES)
def folder(request):
    return request.param, request.getfixturevalue(request.param)


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_predict_writes_bins_and_cells(folder, bundle, tmp_path, monkeypatch):
    technology, outs = folder
    monkeypatch.chdir(outs)  # paths are relative to where the command runs, not to the folder
    out = tmp_path / "slide.zarr"
    command = ["predict", ".", "--image", IMAGES[technology], "--model", str(bundle), "--out", str(out)]
    assert cli.main(command) == 0
    sdata = spatialdata.read_zarr(out)
    table = sdata.tables[f"deepspot_{SHAPES[technology]}"]
    assert table.shape == (N[technology], 4)
    assert np.isfinite(table.X).all()
    # The shapes themselves: also with spots on the slide, they are not scaled to spots.
    assert table.uns["deepspot"]["resolution"] == "spot"
    assert table.obs_names.tolist() == sdata.shapes[SHAPES[technology]].index.astype(str).tolist()
    assert TABLES[technology] in sdata.tables


def test_report(folder, bundle, tmp_path):
    """No gene of the model is in the panel, as of most models and panels."""
    technology, outs = folder
    out, image = tmp_path / "report.html", str(outs / IMAGES[technology])
    (tmp_path / "sets.gmt").write_text("SET\t\tTUMOR1\tTUMOR2\n")
    (tmp_path / "net.csv").write_text("source,target,weight\nP,TUMOR1,1\n")
    files = ["--gene-sets", str(tmp_path / "sets.gmt"), "--net", str(tmp_path / "net.csv")]
    assert cli.main(["report", str(outs), "--image", image, "--model", str(bundle), "--out", str(out), *files]) == 0
    assert "genes predicted" in out.read_text()


def test_the_side_of_bins_is_an_option(visium_hd, capsys):
    image = visium_hd / "slide.btf"
    sdata = read_slide(visium_hd, image, bin_um=8)
    assert set(sdata["outs_square_008um"]["diameter_um"]) == {8.0}
    command = ["predict", str(visium_hd), "--image", str(image), "--out", "new.zarr", "--bin-um", "2"]
    assert cli.main(command) == 2
    assert "has no bins of 2 µm. Choose one of `--bin-um` = [8, 16]." in said(capsys)


def test_bins_without_the_folder_above(visium_hd):
    sdata = read_slide(visium_hd / "binned_outputs", visium_hd / "slide.btf")
    assert "square_016um" in sdata.tables


def test_packed_bins_are_named(visium_hd, capsys):
    (visium_hd / "binned_outputs").rename(visium_hd / "elsewhere")
    command = ["predict", str(visium_hd), "--image", str(visium_hd / "slide.btf"), "--out", "new.zarr"]
    assert cli.main(command) == 2
    assert "Unpack binned_outputs.tar.gz." in said(capsys)


def test_the_alignment_is_an_option(xenium, tmp_path, monkeypatch, capsys):
    before = read_slide(xenium, xenium / IMAGES["xenium"])
    (xenium / "lung_he_imagealignment.csv").rename(tmp_path / "matrix.csv")
    monkeypatch.chdir(tmp_path)
    command = ["predict", str(xenium), "--image", str(xenium / IMAGES["xenium"]), "--out", "new.zarr"]
    assert cli.main(command) == 2
    assert "Pass the matrix that Xenium Explorer exports as `--alignment-file`." in said(capsys)
    after = read_slide(xenium, xenium / IMAGES["xenium"], alignment_file=tmp_path / "matrix.csv")
    assert list(after["cell_boundaries"].index) == list(before["cell_boundaries"].index)
    assert cli.main(["report", str(xenium), "--alignment-file", "none.csv", "--out", "report.html"]) == 2
    assert "There is no file 'none.csv' (--alignment-file)." in said(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "{source} folder has no full-resolution H&E image. Pass it with --image."),
        (["--image", "none.tif"], "There is no image"),
        (["--pitch-um", "100"], "`--pitch-um` cannot be given for a {source} folder."),
        (["--library-id", "A"], "`--library-id` cannot be given for a {source} folder."),
    ],
)
def test_mistakes(options, message, folder, capsys):
    technology, outs = folder
    source = {"visium_hd": "Visium HD", "xenium": "Xenium"}[technology]
    assert cli.main(["predict", str(outs), "--out", "new.zarr", *options]) == 2
    assert message.format(source=source) in said(capsys)


@pytest.mark.parametrize(("option", "value"), [("--bin-um", "8"), ("--mpp", "0.5")])
def test_options_of_visium_hd_are_not_those_of_xenium(option, value, xenium, capsys):
    assert cli.main(["predict", str(xenium), "--out", "new.zarr", option, value]) == 2
    assert f"`{option}` cannot be given for a Xenium folder." in said(capsys)


def test_a_folder_is_not_added_to(folder, capsys):
    _, outs = folder
    before = sorted(outs.rglob("*"))
    assert cli.main(["predict", str(outs)]) == 2
    assert "is no SpatialData (.zarr) to add to. Pass a new one as --out." in said(capsys)
    assert sorted(outs.rglob("*")) == before
