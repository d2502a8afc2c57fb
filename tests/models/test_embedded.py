"""The model that comes with the package."""

import pytest

import deepspot as ds
from deepspot.models._registry import EMBEDDED, FOLDER


def test_it_was_trained_on_the_encoder_that_is_here():
    card = ds.models.load().card
    assert card.encoder_fingerprint == ds.encoders.get().fingerprint
    assert card.encoder.name == "lite0_stats"


def test_it_is_small_and_says_what_it_is(log, monkeypatch):
    monkeypatch.setattr("deepspot.models._registry._logged", set())
    card = ds.models.load().card
    size = sum(file.stat().st_size for file in (FOLDER / EMBEDDED).iterdir())
    assert size < 25e6
    assert len(card.genes) == 1000
    assert "CC BY 4.0" in card.license
    assert {slide.patient for slide in card.slides} == {"B", "C"}
    assert card.geometry.tile.tile_um == 100
    assert (card.gate.unit, card.gate.n) == ("patients", 2)
    assert len(card.reliability.r) == 1000
    assert "at least 5" in card.reliability.why_no_interval
    assert any("HER2-positive breast cancer of two patients" in message for message in log)
    assert any("CC BY 4.0" in message for message in log)


@pytest.mark.parametrize("name", [None, EMBEDDED])
def test_a_folder_of_its_name_does_not_stand_in_the_way(tmp_path, monkeypatch, name):
    (tmp_path / EMBEDDED).mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(ds.models.load(name).card.genes) == 1000


def test_available_lists_it():
    row = ds.models.available().loc[EMBEDDED]
    assert (row["genes"], row["encoder"], row["tile_um"]) == (1000, "lite0_stats", 100.0)
