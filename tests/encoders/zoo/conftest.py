import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deepspot as ds
from deepspot.encoders._registry import _registry
from deepspot.encoders._zoo.networks import network
from deepspot.encoders._zoo.specs import SPECS
from deepspot.encoders._zoo.weights import _quiet


@pytest.fixture(scope="session")
def upstream():
    place = importlib.util.spec_from_file_location("upstream", Path(__file__).with_name("upstream.py"))
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No network, no weights of this machine, nothing loaded or said before."""
    monkeypatch.delenv("DEEPSPOT_WEIGHTS", raising=False)
    monkeypatch.setattr(ds.settings, "weights_dir", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("deepspot.encoders._registry._registry", dict(_registry))
    monkeypatch.setattr("deepspot.encoders._registry._built", {})
    monkeypatch.setattr("deepspot.encoders._zoo.specs._logged", set())


@pytest.fixture(scope="session")
def weights_of():
    """Random weights of an encoder, under the names that they are published with."""

    def make(spec, seed=0):
        torch.manual_seed(seed)
        module = network(spec)
        for value in module.state_dict().values() if spec.prefix_tokens else ():
            value.copy_(0.2 * torch.randn(value.shape).clamp(-2, 2) + (0.5 if value.ndim == 1 else 0))
        if spec.library == "timm":
            return module.state_dict(), module
        with TemporaryDirectory() as folder, _quiet():
            module.save_pretrained(folder)
            return load_file(f"{folder}/model.safetensors"), module

    return make


@pytest.fixture
def small(upstream, monkeypatch):
    """Put an encoder with two narrow layers in place of a large one."""
    from deepspot.encoders import _registry as registry

    def put(name):
        spec = upstream.reduced(SPECS[name])
        registry._registry[name] = (spec.card, spec)
        return spec

    return put


@pytest.fixture
def uni(small, weights_of, tmp_path):
    """A small UNI and a file with its weights."""
    spec = small("uni")
    tensors, _ = weights_of(spec)
    path = tmp_path / "uni.safetensors"
    save_file(tensors, path)
    return spec, tensors, path


TILES = np.random.default_rng(0).integers(0, 256, (3, 60, 60, 3), dtype=np.uint8)


@pytest.fixture
def three_tiles():
    return TILES
