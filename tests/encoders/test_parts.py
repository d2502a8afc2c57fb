"""Sub-spots from one pass over the tile of their spot."""

import numpy as np
import pytest
import torch
from torch import nn

import deepspot as ds
from deepspot._spatial.geometry import split
from deepspot.encoders import EncoderCard
from deepspot.encoders._card import PartsEncoder
from deepspot.encoders._encode import encode_spots
from deepspot.encoders._statistics import statistics, statistics_of_parts
from deepspot.encoders._torch import MapEncoder, TorchEncoder

TILES = np.random.default_rng(0).integers(0, 256, (5, 36, 36, 3), dtype=np.uint8)
CARD = EncoderCard(name="mapped", dim=3, input_px=18, mean=(0, 0, 0), std=(1, 1, 1))


class Mapped(nn.Module):
    """Mean color, of the tile and of each of its pixels."""

    def forward(self, pixels):
        return pixels.mean(dim=(2, 3))

    def with_map(self, pixels):
        return self(pixels), pixels.permute(0, 2, 3, 1)


def batches(tiles=TILES):
    order = np.arange(len(tiles))[::-1]
    yield order[:2], tiles[order[:2]]
    yield order[2:], tiles[order[2:]]


def encode(encoder, **options):
    options = {"grid": 3, "subspots": True, "batch_size": 2, "tokens": True} | options
    return encode_spots(batches(), len(TILES), encoder, **options)


def test_part_embedding_is_average_over_feature_map():
    encoder = MapEncoder(CARD, Mapped())
    spot, parts = encode(encoder)
    np.testing.assert_array_equal(spot, np.concatenate([encoder.encode(tile[None]) for tile in TILES]))
    small = encoder.encode(TILES)
    np.testing.assert_allclose(parts.astype(np.float32).mean(axis=1), small, atol=1e-3)
    _, each = encode(encoder, tokens=False)
    np.testing.assert_allclose(parts, each, atol=0.03)  # tiles are resized across the borders of parts
    assert (parts.dtype, parts.shape) == (np.float16, (5, 9, 3))
    assert np.abs(parts[:, 0].astype(float) - parts[:, 8]).max() > 0.05


def test_one_pass_instead_of_ten(exact_encoder):
    encode(exact_encoder)
    assert exact_encoder.n_tiles == len(TILES)
    assert max(map(len, exact_encoder.seen)) <= 2
    encode(exact_encoder, tokens=False)
    assert exact_encoder.n_tiles == 11 * len(TILES)


def test_no_parts_without_subspots(exact_encoder):
    spot, parts = encode(exact_encoder, subspots=False)
    assert parts is None
    np.testing.assert_array_equal(spot, exact_encoder.encode(TILES))


def test_central_part(exact_encoder):
    spot, middle = encode(exact_encoder, only_central=True)
    whole, parts = encode(exact_encoder)
    np.testing.assert_array_equal(middle, parts[:, [4]])
    np.testing.assert_array_equal(spot, whole)


def test_an_encoder_without_parts_is_refused(cheap_encoder):
    assert not isinstance(cheap_encoder, PartsEncoder)
    with pytest.raises(ValueError, match=r"'mean_color' returns one vector per tile and no parts"):
        encode(cheap_encoder)
    assert cheap_encoder.n_tiles == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda spot, parts: (spot[:, :5], parts), r"shape \(2, 5\) for 2 tiles, but its card implies \(2, 27\)"),
        (
            lambda spot, parts: (spot, parts[:, :4]),
            r"shape \(2, 4, 27\) for 2 tiles, but its card implies \(2, 9, 27\)",
        ),
        (lambda spot, parts: (spot, parts * np.nan), "values that are not finite or exceed 65,504"),
        (lambda spot, parts: (spot * np.inf, parts), "values that are not finite or exceed 65,504"),
    ],
)
def test_parts_that_differ_from_the_card_are_refused(exact_encoder, spoil, message):
    right = exact_encoder.encode_parts
    exact_encoder.encode_parts = lambda tiles, grid: spoil(*right(tiles, grid))
    with pytest.raises(ValueError, match=message):
        encode(exact_encoder)


def test_a_map_of_another_shape_is_refused():
    class Flat(Mapped):
        def with_map(self, pixels):
            return self(pixels), pixels.flatten(2)

    with pytest.raises(
        ValueError, match=r"`with_map` of encoder 'mapped' returned .*\(2, 3\) and a map of shape \(2, 3, 324\)"
    ):
        MapEncoder(CARD, Flat()).encode_parts(TILES[:2], 3)


def test_only_rgb_in_uint8():
    with pytest.raises(ValueError, match=r"`tiles` must be uint8 of shape \(n, height, width, 3\), got float32"):
        MapEncoder(CARD, Mapped()).encode_parts(TILES.astype(np.float32), 3)


def test_a_registered_module_gives_parts_if_it_has_a_map(monkeypatch):
    from deepspot.encoders._registry import _built, _registry

    monkeypatch.setattr("deepspot.encoders._registry._registry", dict(_registry))
    monkeypatch.setattr("deepspot.encoders._registry._built", dict(_built))
    ds.encoders.register(CARD, Mapped)
    ds.encoders.register(CARD.model_copy(update={"name": "plain"}), lambda: nn.Sequential(nn.Flatten()))
    assert isinstance(ds.encoders.get("mapped"), PartsEncoder)
    assert not isinstance(ds.encoders.get("plain"), PartsEncoder)
    assert type(ds.encoders.get("plain")) is TorchEncoder


@pytest.mark.parametrize("name", ["lite0", "lite0_stats", "lite0_stats_336"])
def test_spot_embedding_is_the_same_with_parts(name):
    encoder = ds.encoders.get(name)
    spot, parts = encoder.encode_parts(TILES[:2], 3)
    np.testing.assert_array_equal(spot, encoder.encode(TILES[:2]))
    assert parts.shape == (2, 9, encoder.card.dim)
    # What a sub-spot is averaged from is what the spot is averaged from.
    np.testing.assert_allclose(parts[..., :1280].mean(axis=1), spot[:, :1280], atol=1e-4)


def test_a_larger_input_has_the_same_statistics():
    """They are computed at 224 px."""
    coarse = torch.from_numpy(np.random.default_rng(3).random((2, 3, 12, 12))).float()
    smooth = nn.functional.interpolate(coarse, size=336, mode="bilinear").mul(200).permute(0, 2, 3, 1).byte().numpy()
    small, large = (ds.encoders.get(name).encode_parts(smooth, 3) for name in ("lite0_stats", "lite0_stats_336"))
    for ours, expected in zip(large, small, strict=True):
        np.testing.assert_allclose(ours[..., 1280:], expected[..., 1280:], rtol=0.02, atol=0.02)
        assert np.abs(ours[..., :1280] - expected[..., :1280]).max() > 0.1


def test_parts_are_in_row_major_order():
    """A dark corner is seen by the part that holds it, and least by the opposite one."""
    encoder = ds.encoders.get("lite0_stats")
    white = np.full((4, 60, 60, 3), 255, np.uint8)
    tiles = white.copy()
    for tile, (y, x) in zip(tiles, [(0, 0), (0, 40), (40, 0), (40, 40)], strict=True):
        tile[y : y + 20, x : x + 20] = np.random.default_rng(1).integers(0, 150, (20, 20, 3), dtype=np.uint8)
    change = np.abs(encoder.encode_parts(tiles, 3)[1] - encoder.encode_parts(white, 3)[1])
    for columns in (slice(1280), slice(1280, None)):
        moved = change[..., columns].mean(axis=-1)
        assert moved.argmax(axis=1).tolist() == [0, 2, 6, 8]
        assert (moved[[0, 1, 2, 3], [8, 6, 2, 0]] < 0.5 * moved.max(axis=1)).all()


def test_statistics_of_parts_equal_those_of_separate_tiles():
    rng = np.random.default_rng(2)
    smooth = nn.functional.interpolate(torch.from_numpy(rng.random((4, 3, 12, 12))).float(), size=224, mode="bicubic")
    rgb = 0.3 + 0.6 * smooth.clamp(0, 1)
    parts = statistics_of_parts(rgb, 2)
    assert parts.shape == (4, 4, 32)
    halves = torch.from_numpy(split(rgb.permute(0, 2, 3, 1).numpy(), 2)).permute(0, 3, 1, 2)
    alone = statistics(nn.functional.interpolate(halves, size=224, mode="bilinear")).unflatten(0, (4, 4))
    spread = alone.flatten(0, 1).std(dim=0)
    assert ((parts - alone).abs().mean(dim=(0, 1)) < 0.1 * spread).all()
    whole, gradients = statistics_of_parts(rgb, 1)[:, 0], slice(-3, None)
    torch.testing.assert_close(whole[:, gradients], statistics(rgb)[:, gradients])
