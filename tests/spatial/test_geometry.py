import json
from importlib.resources import files

import pytest
from pydantic import ValidationError

import deepspot as ds
from deepspot._spatial.geometry import Geometry, NeighborRule, TileGeometry

USUAL = {"tile_um": 55.0, "input_px": 224, "grid": 3}


def test_default_source_of_subspots_is_not_serialized():
    tile = TileGeometry(tile_um=55, input_px=224)
    assert tile.subspots == "tiles"
    assert tile.model_dump() == json.loads(tile.model_dump_json()) == USUAL
    tokens = TileGeometry(tile_um=55, input_px=224, subspots="tokens")
    assert tokens.model_dump() == USUAL | {"subspots": "tokens"}
    assert tokens != tile
    nuclei = TileGeometry(tile_um=55, input_px=224, subspots="nuclei", nuclei_key="cells")
    assert nuclei.model_dump() == USUAL | {"subspots": "nuclei", "nuclei_key": "cells"}
    rule = NeighborRule(reach=150)
    assert Geometry(tile=tokens, neighbors=rule).model_dump()["tile"]["subspots"] == "tokens"
    assert Geometry(tile=tile, neighbors=rule).model_dump()["tile"] == USUAL


def test_serialization_round_trip():
    for subspots in ("tiles", "tokens", "nuclei"):
        tile = TileGeometry(tile_um=55, input_px=224, subspots=subspots)
        assert TileGeometry.model_validate_json(tile.model_dump_json()) == tile
    assert TileGeometry.model_validate(USUAL).subspots == "tiles"
    with pytest.raises(ValidationError, match="'tiles', 'tokens' or 'nuclei'"):
        TileGeometry.model_validate(USUAL | {"subspots": "map"})


def test_older_cards_are_serialized_unchanged():
    written = (files("deepspot") / "models" / "embedded" / "her2st" / "card.json").read_text()
    assert ds.models.load().card.model_dump(mode="json")["geometry"] == json.loads(written)["geometry"]
    assert '"tokens"' not in written
