"""Training on the command line, from a manifest."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from spatialdata import deepcopy

import deepspot as ds
from deepspot import cli, encoders

pytestmark = pytest.mark.filterwarnings("ignore:The data type")


@pytest.fixture
def manifest(toy, cheap_encoder, tmp_path, monkeypatch):
    """A store, and an .h5ad with its image next to it."""
    real = encoders.get
    monkeypatch.setattr(encoders, "get", lambda name=None: cheap_encoder if name == "mean_color" else real(name))
    first, second = deepcopy(toy["P1_S1"]), deepcopy(toy["P2_S1"])
    first.write(tmp_path / "P1_S1.zarr")
    table = second.tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    table.obsm = {"spatial": table.obsm["spatial"]}
    table.write(tmp_path / "P2_S1.h5ad")
    Image.fromarray(second.images["P2_S1_image"].to_numpy().transpose(1, 2, 0)).save(tmp_path / "P2.png")
    rows = {"path": ["P1_S1.zarr", "P2_S1.h5ad"], "patient": ["P1", "P2"], "image": ["", "P2.png"]}
    rows |= {"mpp": [np.nan, 1.0], "diameter_um": [np.nan, 55.0]}
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path / "manifest.csv"


@pytest.fixture
def command(manifest, tmp_path):
    options = "--genes 8 --encoder mean_color --tissue lung --license CC0 --name mine --seed 3 --device cpu"
    return ["train", str(manifest), "--out", str(tmp_path / "model"), *options.split()]


def test_a_model_of_a_store_and_a_file(command, toy, cheap_encoder, tmp_path, log):
    assert cli.main(command) == 0
    model = ds.models.load(tmp_path / "model")
    assert (model.card.name, model.card.tissue, model.card.license) == ("mine", "lung", "CC0")
    assert [(slide.slide, slide.patient) for slide in model.card.slides] == [("P1_S1", "P1"), ("P2_S1", "P2")]
    slides = {name: deepcopy(toy[name]) for name in ("P1_S1", "P2_S1")}
    card = {"name": "mine", "tissue": "lung", "license": "CC0"}
    same = ds.models.train(slides, patient_key="patient", genes=8, encoder=cheap_encoder, seed=3, card=card)
    assert model.fingerprint == same.fingerprint
    assert any(line == f"Wrote the model {tmp_path / 'model'}." for line in log)


def test_a_model_is_replaced_only_on_request(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(ds.models, "train", None)  # not reached
    assert cli.main(command) == 2
    assert "Pass --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": ["P1_S1.zarr", "nothing.h5ad"]}, r"do not exist: .*nothing\.h5ad"),
        ({"path": ["P1_S1.zarr", "P2.png"]}, "is a file without measured genes"),
        ({"image": ["", ""]}, "no full-resolution H&E image"),
        ({"patient": ["P1", ""]}, "patient"),
    ],
)
def test_bad_manifests(command, manifest, change, message, monkeypatch, capsys):
    pd.read_csv(manifest).assign(**change).to_csv(manifest, index=False)
    monkeypatch.setattr(ds.models, "train", None)
    assert cli.main(command) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert pd.Series([error]).str.contains(message).all(), error
