"""ONNX Runtime computes what torch does. What it saves is measured in benchmarks/runtimes.py."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import deepspot as ds
from deepspot.encoders import EncoderCard
from deepspot.encoders._onnx import OnnxNetwork
from deepspot.encoders._torch import MapEncoder, TorchEncoder

CARD = EncoderCard(name="mine", dim=4, input_px=18)
TILES = np.random.default_rng(0).integers(0, 256, (9, 18, 18, 3), dtype=np.uint8)


class Mapped(nn.Module):
    """A convolution that counts how often torch computes it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.calls = nn.Conv2d(3, 4, 3, padding=1), 0

    def with_map(self, pixels):
        self.calls += 1
        cells = self.convolution(pixels).relu()
        return cells.mean((2, 3)), cells.permute(0, 2, 3, 1)

    def forward(self, pixels):
        return self.with_map(pixels)[0]


@pytest.fixture
def onnx(monkeypatch):
    monkeypatch.setattr(ds.settings, "runtime", "onnx")


def test_onnx_equals_torch_for_any_batch_size(monkeypatch):
    encoder = MapEncoder(CARD, Mapped())
    whole, parts = encoder.encode_parts(TILES, 3)
    monkeypatch.setattr(ds.settings, "runtime", "onnx")
    for n in (3, 1, 9):
        np.testing.assert_allclose(encoder.encode(TILES[:n]), whole[:n], rtol=1e-5, atol=1e-6)
        made = encoder.encode_parts(TILES[:n], 3)
        np.testing.assert_allclose(made[0], whole[:n], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(made[1], parts[:n], rtol=1e-5, atol=1e-6)
    assert encoder.encode(TILES).dtype == np.float32


def test_first_batch_of_one_tile(onnx):
    encoder = TorchEncoder(CARD, Mapped())
    one = encoder.encode(TILES[:1])
    np.testing.assert_allclose(encoder.encode(TILES)[:1], one, rtol=1e-5, atol=1e-6)


def test_torch_is_used_for_export_only(onnx):
    encoder = TorchEncoder(CARD, Mapped())
    encoder.encode(TILES)
    before = encoder.module.calls
    encoder.encode(TILES)
    assert encoder.module.calls == before
    ds.settings.runtime = "torch"
    encoder.encode(TILES)
    assert encoder.module.calls > before


def test_gpu_uses_torch(onnx):
    encoder = TorchEncoder(CARD, Mapped())
    encoder.device = torch.device("meta")  # stands for a GPU, which is not at hand
    encoder.compute("forward", torch.rand(2, 3, 18, 18))
    assert not encoder.translated


def test_embedded_encoder_in_onnx_equals_torch(monkeypatch):
    tiles = np.random.default_rng(1).integers(0, 256, (2, 60, 60, 3), dtype=np.uint8)
    encoder = ds.encoders.get()
    known = encoder.encode_parts(tiles, 3)
    monkeypatch.setattr(encoder, "translated", {})  # and not kept for other tests
    monkeypatch.setattr(ds.settings, "runtime", "onnx")
    for found, wanted in zip(encoder.encode_parts(tiles, 3), known, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_fingerprint_does_not_depend_on_runtime(onnx):
    encoder = TorchEncoder(CARD, Mapped())
    encoder.encode(TILES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ds.settings, "runtime", "torch")
        assert encoder.fingerprint == TorchEncoder(CARD, Mapped()).fingerprint


class DataDependent(nn.Module):
    """Takes a way that depends on what it sees, which no translation can follow."""

    def forward(self, pixels):
        return pixels.mean((2, 3)) if pixels.mean() > 0 else pixels.amax((2, 3))


def test_failed_export_is_an_error(onnx):
    encoder = TorchEncoder(CARD.model_copy(update={"dim": 3}), DataDependent())
    with pytest.raises(
        ValueError, match=r"encoder 'mine' cannot be exported .*\(\w+: \w.*Set `ds.settings.runtime = 'torch'`"
    ):
        encoder.encode(TILES)


def test_wrong_export_is_refused(monkeypatch):
    monkeypatch.setattr(OnnxNetwork, "__call__", lambda self, pixels: torch.zeros(len(pixels), 4))
    with pytest.raises(ValueError, match="encoder 'mine' differs in ONNX Runtime from torch by 1 of its largest value"):
        OnnxNetwork(Mapped(), "forward", torch.rand(2, 3, 18, 18), "mine")


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_runtime_setting_names_a_missing_package(monkeypatch, missing):
    monkeypatch.setattr("deepspot._core.settings.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ImportError, match=rf"needs {missing}\. Install with `pip install \"\.\[onnx\]\"`"):
        ds.settings.runtime = "onnx"
    assert ds.settings.runtime == "torch"


@pytest.mark.parametrize("take_along", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_used_encoder_can_be_pickled_and_copied(onnx, take_along):
    encoder = TorchEncoder(CARD, Mapped(), transform=nn.Identity())
    embedded = encoder.encode(TILES)
    assert encoder.translated
    other = take_along(encoder)
    assert not other.translated
    np.testing.assert_allclose(other.encode(TILES), embedded, rtol=1e-5, atol=1e-6)


def test_empty_batch_is_not_exported(onnx):
    encoder = TorchEncoder(CARD, Mapped())
    assert encoder.encode(TILES[:0]).shape == (0, 4)
    assert not encoder.translated


def test_batch_dependent_module_equals_torch(onnx):
    class Together(Mapped):
        def forward(self, pixels):
            return super().forward(pixels) - super().forward(pixels).mean(0)

    encoder = TorchEncoder(CARD, Together())
    encoder.compute("forward", torch.rand(5, 3, 18, 18))
    np.testing.assert_allclose(encoder.compute("forward", torch.rand(5, 3, 18, 18)).mean(0), 0, atol=1e-6)


def test_unknown_runtime_is_refused():
    with pytest.raises(ValueError, match=r"`settings.runtime` must be one of \['torch', 'onnx'\], got 'tensorrt'"):
        ds.settings.runtime = "tensorrt"
