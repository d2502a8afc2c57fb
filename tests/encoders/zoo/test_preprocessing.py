import numpy as np
import pytest
import torch

from deepspot.encoders import EncoderCard
from deepspot.encoders._torch import TorchEncoder, prepare
from deepspot.encoders._zoo.specs import SPECS


def gray_levels(card, a, b):
    """Largest difference of pixels, in steps of 8-bit images."""
    return ((a - b).abs().amax(dim=(0, 2, 3)) * torch.tensor(card.std) * 255).max()


def ours(card, tiles):
    """Pixels as the network gets them."""
    encoder = TorchEncoder(card, torch.nn.Identity())
    return encoder.transform(prepare(tiles, card, torch.device("cpu")))


@pytest.mark.parametrize("px", [37, 145, 224, 256, 512])
@pytest.mark.parametrize("name", list(SPECS))
def test_pixels_are_those_of_the_librarys_own_transform(upstream, name, px):
    tiles, (transform, _) = upstream.tiles(px), upstream.transform(name)
    expected = torch.stack([torch.as_tensor(transform(tile)) for tile in tiles])
    found = ours(SPECS[name].card, tiles)
    assert found.shape == expected.shape
    # 8-bit pixels are the same to the bit; what is left is the order in which floats are divided.
    assert (found - expected).abs().max() < 5e-6


@pytest.mark.parametrize("name", ["uni", "uni2-h", "midnight", "h0-mini"])
def test_pillow_differs_by_rounding(upstream, name):
    tiles, card = upstream.tiles(145), SPECS[name].card
    expected = torch.stack([upstream.on_pillow(name)(tile) for tile in tiles])
    assert 0 < gray_levels(card, ours(card, tiles), expected) < 2.01


@pytest.mark.parametrize("name", ["virchow2", "prov-gigapath"])
def test_bicubic_overshoot_exceeds_rounding(upstream, name):
    tiles, card = upstream.tiles(145), SPECS[name].card
    transform = upstream.model(name).get_transform()
    expected = torch.stack([transform(tile) for tile in tiles])
    assert gray_levels(card, ours(card, tiles), expected) > 5


def test_uni_is_resized_as_in_published_deepspot(upstream):
    from torchvision.transforms import v2

    card, tiles = SPECS["uni"].card, upstream.tiles(145)
    published = v2.Compose([v2.Resize(224, antialias=True), v2.Normalize(card.mean, card.std)])
    expected = torch.stack([published(upstream.fractions(tile)) for tile in tiles])
    assert (ours(card, tiles) - expected).abs().max() < 5e-6


@pytest.mark.parametrize("how", ["float", "uint8", "pillow"])
def test_center_crop(how):
    tile = np.zeros((1, 8, 8, 3), np.uint8)
    tile[:, 2:6, 2:6] = 255
    card = EncoderCard(name="x", dim=1, input_px=4, resize_px=8, resize_as=how, mean=(0, 0, 0), std=(1, 1, 1))
    assert (ours(card, tile) == 1).all()
    assert ours(card, tile).shape == (1, 3, 4, 4)
    assert ours(card, tile[:0]).shape == (0, 3, 4, 4)


def test_resizing_is_part_of_the_fingerprint():
    def fingerprint(**changes):
        return TorchEncoder(EncoderCard(name="x", dim=1, **changes), torch.nn.Identity()).fingerprint

    changes = [{}, {"resize_px": 256}, {"interpolation": "bicubic"}, {"resize_as": "uint8"}, {"resize_as": "pillow"}]
    assert len({fingerprint(**change) for change in changes}) == len(changes)
    assert fingerprint(pooling="cls", architecture="y", url="z") == fingerprint()
