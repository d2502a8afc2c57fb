import pytest
import torch

from deepspot.encoders._torch import Pooled
from deepspot.encoders._zoo.networks import network
from deepspot.encoders._zoo.specs import SPECS


def patch_of(spec):
    return spec.options.get("patch_size", 14)


@pytest.mark.parametrize("name", list(SPECS))
def test_card_and_real_architecture_agree(name):
    spec = SPECS[name]
    card = spec.card
    with torch.device("meta"):  # shapes only: neither the memory nor the time of a billion weights
        module = Pooled(network(spec), card.pooling, spec.prefix_tokens).eval()
        pixels = torch.empty(2, 3, card.input_px, card.input_px)
    assert module(pixels).shape == (2, card.dim)
    spot, cells = module.with_map(pixels)
    side = (
        card.input_px // 32 - (name == "inception_v3") if card.pooling == "pooled" else card.input_px // patch_of(spec)
    )
    assert (spot.shape, cells.shape) == ((2, card.dim), (2, side, side, card.dim))
    parameters = sum(weights.numel() for weights in module.parameters()) / 1e6
    assert parameters == pytest.approx(spec.parameters, rel=0.02)
    if card.pooling == "pooled":
        return
    tokens = module.tokens(pixels)
    assert tokens.shape[1] == spec.prefix_tokens + side**2
    assert tokens.shape[2] * (1 + (card.pooling == "cls+mean")) == card.dim
    if spec.library == "timm":
        assert module.network.num_prefix_tokens == spec.prefix_tokens
    else:
        assert not hasattr(module.network.config, "num_register_tokens")


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"ViTModel is a network of transformers.*pip install \"\.\[zoo\]\""):
        network(SPECS["phikon"])
