from threading import current_thread, main_thread

import numpy as np
import pytest
import torch
from torch import nn

import deepspot as ds
from deepspot._core.compute import autocast, choose_device
from deepspot.encoders import Encoder, EncoderCard
from deepspot.encoders._torch import Pooled, TorchEncoder, prepare

TILES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def card(**changes):
    return EncoderCard(**({"name": "mine", "dim": 4, "input_px": 8} | changes))


def convolution(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_is_an_encoder():
    assert isinstance(TorchEncoder(card(), convolution()), Encoder)


def test_module_is_frozen_and_in_evaluation():
    module = convolution()
    encoder = TorchEncoder(card(), module)
    first, second = encoder.encode(TILES), encoder.encode(TILES)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert first.shape == (5, 4)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module[1].num_batches_tracked == 0


def test_tiles_are_resized_without_aliasing():
    encoder = TorchEncoder(card(input_px=4, dim=48, mean=(0, 0, 0), std=(1, 1, 1)), nn.Flatten())
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = 255
    inner = encoder.encode(stripes).reshape(3, 4, 4)[:, :, 1:3]
    np.testing.assert_allclose(inner, 0.5, atol=0.05)
    flat = np.full((1, 7, 7, 3), 51, np.uint8)
    np.testing.assert_allclose(encoder.encode(flat), 0.2, atol=1e-6)


@pytest.mark.parametrize(
    ("tiles", "found"),
    [
        (TILES.astype(np.float32), r"float32 \(5, 16, 16, 3\)"),
        (TILES[0], r"uint8 \(16, 16, 3\)"),
        (TILES.transpose(0, 3, 1, 2), r"uint8 \(5, 3, 16, 16\)"),
    ],
)
def test_only_rgb_in_uint8(tiles, found):
    with pytest.raises(ValueError, match=rf"`tiles` must be uint8 of shape \(n, height, width, 3\), got {found}"):
        TorchEncoder(card(), convolution()).encode(tiles)


def test_fingerprint_follows_weights_and_preprocessing():
    same = TorchEncoder(card(), convolution()).fingerprint
    assert TorchEncoder(card(), convolution()).fingerprint == same
    assert TorchEncoder(card(name="other", license="MIT"), convolution()).fingerprint == same
    others = {
        TorchEncoder(card(), convolution(1)).fingerprint,
        TorchEncoder(card(), nn.Sequential(convolution(), nn.ReLU())).fingerprint,
        TorchEncoder(card(mean=(0.5, 0.5, 0.5)), convolution()).fingerprint,
        TorchEncoder(card(input_px=9), convolution()).fingerprint,
        TorchEncoder(card(), convolution(), identity="mine, version 1").fingerprint,
    }
    assert len(others | {same}) == 6


def scaled(factor):
    return lambda rgb: torch.stack([factor * (lambda x: x + 1)(tile) for tile in rgb])


def test_fingerprint_follows_the_transform():
    transforms = [None, lambda rgb: rgb, lambda rgb: rgb * 2, lambda rgb: rgb * 3, scaled(2), scaled(3), nn.Identity()]
    prints = [TorchEncoder(card(), convolution(), transform).fingerprint for transform in transforms]
    assert len(set(prints)) == len(transforms)
    assert TorchEncoder(card(), convolution(), lambda rgb: rgb * 2).fingerprint == prints[2]
    assert TorchEncoder(card(), convolution(), scaled(2)).fingerprint == prints[4]


FACTOR = np.ones(2000)


def by_factor(rgb):
    return rgb * FACTOR[-1]


def test_fingerprint_follows_what_the_transform_uses_from_outside(monkeypatch):
    def fingerprint(transform):
        return TorchEncoder(card(), convolution(), transform).fingerprint

    first = fingerprint(by_factor)
    assert fingerprint(by_factor) == first
    changed = FACTOR.copy()
    changed[1000] = 2  # not in the repr, which is shortened
    monkeypatch.setitem(globals(), "FACTOR", changed)
    assert fingerprint(by_factor) != first


def test_fingerprint_of_a_transform_is_the_same_in_another_process(capsys):
    import subprocess
    import sys

    code = (
        "from torch import nn; from deepspot.encoders import EncoderCard; "
        "from deepspot.encoders._torch import TorchEncoder; "
        "f = lambda rgb: [(lambda x: x + 1)(x) for x in rgb]; "
        "print(TorchEncoder(EncoderCard(name='x', dim=3), nn.Identity(), f).fingerprint)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exec(code, {})
    assert run.stdout == capsys.readouterr().out


def test_device_is_chosen():
    chosen = choose_device(None).type
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert chosen == "cpu"
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")


def test_device_falls_back_to_the_settings(monkeypatch):
    monkeypatch.setattr(ds.settings, "device", "meta")
    assert choose_device() == torch.device("meta")
    assert choose_device("cpu") == torch.device("cpu")


def test_no_such_device():
    with pytest.raises(ValueError, match="`device` must be 'cpu', 'cuda', 'cuda:<n>' or 'mps', got 'gpu'"):
        choose_device("gpu")


def test_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"`device='cuda'` is not available here. Leave `device` out"):
        TorchEncoder(card(), convolution()).to("cuda")


def test_full_precision_on_the_cpu():
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("resize_as", ["uint8", "pillow", "float"])
@pytest.mark.parametrize("resize_px", [None, 11])
def test_tiles_that_were_resized_ahead_give_the_same(resize_as, resize_px):
    encoder = TorchEncoder(card(resize_as=resize_as, resize_px=resize_px), convolution())
    resized = encoder.resize_ahead(TILES)
    assert resized.dtype == np.uint8
    assert resized.shape == (TILES.shape if resize_as == "float" else (5, resize_px or 8, resize_px or 8, 3))
    ahead, together = (prepare(tiles, encoder.card, encoder.device) for tiles in (resized, TILES))
    assert torch.equal(ahead, together)
    np.testing.assert_allclose(encoder.encode(resized), encoder.encode(TILES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_as", ["float", "uint8"])
@pytest.mark.parametrize("side", [5, 16, 40])
def test_tiles_are_resized_as_with_antialiasing(interpolation, resize_as, side):
    from torchvision.transforms.v2 import functional as F

    made = prepare(TILES, card(input_px=side, interpolation=interpolation, resize_as=resize_as), torch.device("cpu"))
    pixels = torch.from_numpy(TILES).permute(0, 3, 1, 2)
    pixels = pixels.float() / 255 if resize_as == "float" else pixels
    expected = F.resize(pixels, [side, side], F.InterpolationMode(interpolation), antialias=True)
    expected = expected if resize_as == "float" else expected.float() / 255
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-6)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_cpu_gets_a_few_tiles_at_once(monkeypatch, two_threads):
    encoder = TorchEncoder(card(), convolution())
    whole, seen = encoder.encode(TILES), []
    monkeypatch.setattr("deepspot.encoders._torch.PIXELS_PER_THREAD", 8**2)
    encoder.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    np.testing.assert_allclose(encoder.encode(TILES), whole, rtol=1e-5, atol=1e-6)
    assert seen == [2, 2, 1]
    encoder.device = torch.device("cuda")
    assert encoder.at_once(64) == 64


def test_threads_compute_tiles_of_their_own(monkeypatch, two_threads):
    """Modules of this package do; one of a user may keep values between its layers."""
    monkeypatch.setattr("deepspot.encoders._torch.PIXELS_PER_THREAD", 2 * 8**2 + 1)
    seen = []
    network = convolution()
    network.register_forward_pre_hook(
        lambda _, args: seen.append((len(args[0]), torch.get_num_threads(), current_thread() is main_thread()))
    )
    pooled = TorchEncoder(card(), Pooled(network, "pooled", 0))
    tiles = np.concatenate([TILES, TILES])[:7]
    whole = pooled.encode(tiles)
    assert sorted(seen) == [(1, 1, False), (2, 1, False), (2, 1, False), (2, 1, False)]
    alone = [pooled.encode(tiles[[row]]) for row in range(7)]
    np.testing.assert_allclose(whole, np.concatenate(alone), rtol=1e-5, atol=1e-6)
    seen.clear()
    pooled.encode(tiles[:1])
    assert seen == [(1, 2, True)]  # all cores for one tile
    seen.clear()
    TorchEncoder(card(), network).encode(tiles)
    assert seen == [(4, 2, True), (3, 2, True)]
