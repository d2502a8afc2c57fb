"""The embedded model."""

import pytest

import deepspot as ds
from deepspot.models._registry import EMBEDDED, FOLDER


def test_its_encoder_is_the_default_encoder():
    card = ds.models.load().card
    assert card.encoder_fingerprint == ds.encoders.get().fingerprint
    assert card.encoder.name == "lite0_stats"


def test_its_size_card_and_log_lines(log, monkeypatch):
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
    assert {"ERBB2", "ESR1", "PGR", "KRT8", "MKI67", "CD3D", "MS4A1", "CD68", "COL1A1", "CXCL13"} <= set(card.genes)
    assert (card.training.level_slides, card.training.rank, card.gate.rank) == (True, "select", 10)
    assert any("HER2-positive breast cancer of two patients" in message for message in log)
    assert any("CC BY 4.0" in message for message in log)


@pytest.mark.parametrize("name", [None, EMBEDDED])
def test_it_has_precedence_over_a_folder_of_its_name(tmp_path, monkeypatch, name):
    (tmp_path / EMBEDDED).mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(ds.models.load(name).card.genes) == 1000
