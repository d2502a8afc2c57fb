import numpy as np
import pytest
import torch
from torch import nn

from deepspot.encoders._torch import MapEncoder, Pooled, TorchEncoder, prepare
from deepspot.encoders._zoo.specs import SPECS

# All but a second way to resize for the same network.
TRANSFORMERS = [name for name, spec in SPECS.items() if spec.prefix_tokens and not spec.weights_of]


class Tokens(nn.Module):
    """Gives the same tokens for every tile."""

    def __init__(self, tokens):
        super().__init__()
        self.given = tokens

    def forward_features(self, pixels):
        return self.given.expand(len(pixels), -1, -1)


@pytest.mark.parametrize(("pooling", "dim"), [("cls", 3), ("cls+mean", 6)])
def test_registers_are_not_pooled(pooling, dim):
    tokens = torch.arange(30.0).view(1, 10, 3)
    before = Pooled(Tokens(tokens), pooling, 5)(torch.empty(2, 3, 8, 8))
    tokens[:, 1:5] = torch.nan
    after = Pooled(Tokens(tokens), pooling, 5)(torch.empty(2, 3, 8, 8))
    torch.testing.assert_close(before, after)
    assert after.shape == (2, dim)
    assert after[0].tolist() == [0, 1, 2, 21, 22, 23][:dim]


@pytest.mark.parametrize(("pooling", "dim"), [("cls", 3), ("cls+mean", 6)])
def test_a_map_holds_patches_and_no_registers(pooling, dim):
    tokens = torch.arange(27.0).view(1, 9, 3)
    tokens[:, 1:5] = torch.nan
    pooled = Pooled(Tokens(tokens), pooling, 5)
    spot, cells = pooled.with_map(torch.empty(2, 3, 8, 8))
    torch.testing.assert_close(spot, pooled(torch.empty(2, 3, 8, 8)))
    assert cells.shape == (2, 2, 2, dim)
    assert cells[0, :, :, -1].tolist() == [[17, 20], [23, 26]]
    if pooling == "cls+mean":
        assert (cells[..., :3] == tokens[0, 0]).all()
        torch.testing.assert_close(cells.mean(dim=(1, 2)), spot)


@pytest.mark.parametrize("name", ["uni", "h0-mini", "phikon", "prov-gigapath"])
def test_parts_of_a_transformer_are_averages_of_its_patches(upstream, weights_of, three_tiles, name):
    spec = upstream.reduced(SPECS[name])
    _, module = weights_of(spec)
    encoder = MapEncoder(spec.card, Pooled(module, spec.card.pooling, spec.prefix_tokens))
    spot, parts = encoder.encode_parts(three_tiles, 1)
    np.testing.assert_array_equal(spot, encoder.encode(three_tiles))
    tokens = encoder.module.tokens(encoder.transform(prepare(three_tiles, spec.card, encoder.device)))
    mean = tokens[:, spec.prefix_tokens :].mean(dim=1).numpy()
    np.testing.assert_allclose(parts[:, 0, -mean.shape[1] :], mean, atol=1e-5 * np.abs(mean).max())
    assert encoder.encode_parts(three_tiles, 3)[1].shape == (3, 9, spec.card.dim)


@pytest.mark.parametrize("name", ["virchow2", "h0-mini", "h-optimus-0", "uni2-h"])
def test_real_networks_have_their_registers_where_they_are_left_out(upstream, weights_of, name):
    spec = upstream.reduced(SPECS[name])
    _, module = weights_of(spec)
    pooled = Pooled(module, spec.card.pooling, spec.prefix_tokens)
    tokens = pooled.tokens(torch.rand(1, 3, 224, 224))
    assert tokens.shape[1] - spec.prefix_tokens == 256
    assert module.reg_token.shape[1] == spec.prefix_tokens - 1


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_embeddings_are_those_of_lazyslide_models(upstream, weights_of, three_tiles, name):
    spec = upstream.reduced(SPECS[name])
    _, module = weights_of(spec)
    encoder = TorchEncoder(spec.card, Pooled(module, spec.card.pooling, spec.prefix_tokens))
    known, (transform, _) = upstream.model(name, module.eval()), upstream.transform(name)
    if known.get_transform() is None:
        expected = torch.cat([known.encode_image(tile) for tile in three_tiles])
    else:
        expected = known.encode_image(torch.stack([transform(tile) for tile in three_tiles]))
    found = encoder.encode(three_tiles)
    assert found.shape == (3, spec.card.dim)
    assert np.ptp(found, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5 * np.abs(found).max())


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "inception_v3"])
def test_torchvision_networks_equal_torchvision(upstream, three_tiles, tmp_path, name):
    import torchvision

    import deepspot as ds

    torch.manual_seed(0)
    options = {"init_weights": False} if name == "inception_v3" else {}
    published = getattr(torchvision.models, name)(weights=None, **options).eval()
    for layer in published.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    tensors = {key: value for key, value in published.state_dict().items() if "num_batches" not in key}
    torch.save(tensors, tmp_path / "weights.pth")
    encoder = ds.encoders.get(name, weights=tmp_path / "weights.pth")
    if name == "densenet121":
        published.classifier = nn.Identity()
        # As it was first published, and still is.
        old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v for key, v in tensors.items()}
        torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        assert ds.encoders.get(name, weights=tmp_path / "old.pth").fingerprint == encoder.fingerprint
    else:
        published.fc = nn.Identity()
    pixels = torch.stack([upstream.transform(name)[0](tile) for tile in three_tiles])
    with torch.inference_mode():
        expected = published(pixels).numpy()
    embedded = encoder.encode(three_tiles)
    np.testing.assert_allclose(embedded, expected, atol=1e-5 * np.abs(expected).max())
    spot, parts = encoder.encode_parts(three_tiles, 1)
    np.testing.assert_array_equal(spot, embedded)
    np.testing.assert_allclose(parts[:, 0], spot, atol=1e-5 * np.abs(expected).max())
