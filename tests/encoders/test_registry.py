import numpy as np
import pytest
from torch import nn

import deepspot as ds
from deepspot.encoders import Encoder, EncoderCard
from deepspot.encoders._registry import _registry


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    copy = dict(_registry)
    monkeypatch.setattr("deepspot.encoders._registry._registry", copy)
    monkeypatch.setattr("deepspot.encoders._registry._built", {})
    return copy


def mean_pixel():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def card(**changes):
    return EncoderCard(**({"name": "mine", "dim": 3, "input_px": 8, "mean": (0, 0, 0), "std": (1, 1, 1)} | changes))


TILES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def test_available_lists_the_cards():
    table = ds.encoders.available()
    assert table.index.tolist()[:2] == ["lite0", "lite0_stats"]
    assert table.loc[["lite0", "lite0_stats"], "ready"].all()
    assert table.loc["lite0_stats", "dim"] == 1312
    assert "not on histology" in table.loc["lite0_stats", "note"]
    assert not table.loc[["lite0", "lite0_stats"], "gated"].any()


def test_unknown_name_lists_the_known():
    with pytest.raises(
        KeyError, match=r"Key `'resnet'` not found in `ds.encoders.available\(\)`. Available keys: \['lit"
    ):
        ds.encoders.get("resnet")


def test_get_returns_an_encoder_unchanged(cheap_encoder):
    assert isinstance(cheap_encoder, Encoder)
    assert ds.encoders.get(cheap_encoder) is cheap_encoder


def test_encoder_protocol_has_four_members():
    class Mine:
        card = card()
        fingerprint = "abc"

        def to(self, device):
            return self

    with pytest.raises(TypeError, match=r"Mine is not an encoder: it needs `card`, `fingerprint`, `to\(device\)` and"):
        ds.encoders.get(Mine())
    Mine.encode = lambda self, tiles: tiles.mean(axis=(1, 2))
    mine = Mine()
    assert ds.encoders.get(mine) is mine


@pytest.mark.parametrize("thing", [nn.Identity(), 3])
def test_other_objects_are_refused(thing):
    with pytest.raises(
        TypeError, match=rf"{type(thing).__name__} is not an encoder.*ds\.encoders\.register\(card, load\)"
    ):
        ds.encoders.get(thing)


def test_register_a_module():
    ds.encoders.register(card(), mean_pixel)
    encoder = ds.encoders.get("mine")
    assert ds.encoders.available().loc["mine", "input_px"] == 8
    np.testing.assert_allclose(encoder.encode(TILES), TILES.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_the_card_normalizes_unless_there_is_a_transform():
    ds.encoders.register(card(mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.5)), mean_pixel)
    expected = (TILES.mean(axis=(1, 2)) / 255 - 0.5) / [0.1, 0.2, 0.5]
    np.testing.assert_allclose(ds.encoders.get("mine").encode(TILES), expected, rtol=1e-4)
    ds.encoders.register(card(std=(0.1, 0.1, 0.1)), mean_pixel, transform=lambda rgb: 2 * rgb, overwrite=True)
    np.testing.assert_allclose(ds.encoders.get("mine").encode(TILES), 2 * TILES.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_existing_name_needs_overwrite():
    ds.encoders.register(card(), mean_pixel)
    with pytest.raises(ValueError, match=r"Encoder 'mine' is already registered. Choose another name, or"):
        ds.encoders.register(card(), mean_pixel)
    ds.encoders.register(card(license="MIT"), mean_pixel, overwrite=True)
    assert ds.encoders.available().loc["mine", "license"] == "MIT"


def test_a_module_is_loaded_once_on_first_use():
    calls = []
    ds.encoders.register(card(), lambda: calls.append(1) or mean_pixel())
    assert calls == []
    assert ds.encoders.get("mine") is ds.encoders.get("mine")
    assert calls == [1]
    ds.encoders.register(card(), lambda: calls.append(2) or mean_pixel(), overwrite=True)
    ds.encoders.get("mine")
    assert calls == [1, 2]


def test_a_registered_module_embeds_a_slide(slide):
    ds.encoders.register(card(), mean_pixel)
    ds.pp.embed(slide, "mine")
    assert slide["mine_spots"].shape == (30, 3)


def test_default_is_the_embedded_encoder(registry):
    registry["lite0_stats"] = (registry["lite0_stats"][0], lambda: "the default")
    assert ds.encoders.get() == ds.encoders.get(None) == "the default"
