import pytest

import deepspot as ds
from deepspot.models import _registry
from deepspot.models._bundle.bundle import CARD

COLUMNS = ["source", "tissue", "license", "genes", "encoder", "encoder_license", "tile_um", "path"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of models, without a cache of Hugging Face."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no_hub"))
    monkeypatch.setattr(ds.settings, "models_dir", tmp_path / "models")
    return tmp_path / "models"


def test_the_embedded_model_is_listed(folder):
    found = ds.models.available()
    assert found.columns.tolist() == COLUMNS
    assert found.index.tolist() == ["her2st"]
    assert found.loc["her2st", ["source", "license", "encoder_license"]].tolist() == [
        "package",
        "CC BY 4.0",
        "Apache-2.0",
    ]


def test_models_in_the_folder_are_loaded_by_name(folder, tiny):
    tiny.save(folder / "mine")
    tiny.save(folder / "sent")
    (folder / "notes").mkdir()
    (folder / "notes.txt").write_text("x")
    found = ds.models.available()
    assert found.index.tolist() == ["her2st", "mine", "sent"]
    assert found.loc["sent", COLUMNS[:-1]].tolist() == ["folder", "toy", "MIT", 4, "toy", "unknown", 55.0]
    for name in ("mine", "sent"):
        assert ds.models.load(name).fingerprint == tiny.fingerprint


def test_a_folder_with_a_taken_name_is_listed_by_path(folder, tiny):
    tiny.save(folder / "her2st")
    tiny.save(folder / "twin")
    found = ds.models.available()
    assert found.index.tolist() == ["her2st", str(folder / "her2st"), "twin"]
    assert found.loc["her2st", "source"] == "package"
    assert len(ds.models.load("her2st").card.genes) == 1000
    assert all(len(ds.models.load(name).card.genes) == 4 for name in found.index[1:])


@pytest.mark.parametrize("content", ["{", '{"format": 2}'])
def test_a_broken_model_does_not_break_the_list(folder, tiny, log, content):
    tiny.save(folder / "good")
    tiny.save(folder / "bad")
    (folder / "bad" / CARD).write_text(content)
    (folder / "sent.zip").write_bytes(b"PK")
    assert ds.models.available().index.tolist() == ["her2st", "good"]
    assert [line.split(":")[0] for line in log] == ["Left out bad"]


def test_the_license_is_logged_once(tmp_path, tiny, log, monkeypatch):
    monkeypatch.setattr(_registry, "_logged", set())
    tiny.save(tmp_path / "model")
    ds.models.load(tmp_path / "model")
    ds.models.load(tmp_path / "model")
    assert ["license MIT" in line for line in log] == [True, False]
    other = tiny.card.model_copy(update={"license": "CC BY-NC 4.0"})
    tiny.card = other
    tiny.save(tmp_path / "other")
    ds.models.load(tmp_path / "other")
    assert "license CC BY-NC 4.0" in log[-1]


def test_an_unknown_model_lists_the_known_ones(folder, tiny):
    tiny.save(folder / "mine")
    with pytest.raises(FileNotFoundError, match=r"\['her2st', 'mine'\]. One on Hugging Face is written 'hf://"):
        ds.models.load("nine")
