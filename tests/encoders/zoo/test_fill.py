import pytest
import torch
from safetensors.torch import save_file

import deepspot as ds
from deepspot.encoders._zoo.weights import hash_tensors


def refused(name, tensors, path, match):
    save_file(tensors, path)
    with pytest.raises(ValueError, match=match):
        ds.encoders.get(name, weights=path)


@pytest.mark.parametrize("name", ["uni", "phikon", "phikon-v2", "virchow2"])
def test_missing_unknown_and_reshaped_tensors_are_named(small, weights_of, tmp_path, name):
    spec = small(name)
    tensors, _ = weights_of(spec)
    path, first = tmp_path / "x.safetensors", sorted(tensors)[0]
    begins = rf"x\.safetensors does not contain the weights of '{name}': "
    less = {key: value for key, value in tensors.items() if key != first}
    refused(
        name, less, path, begins + r"1 tensors are missing \(.*The weights are published at https://huggingface\.co/"
    )
    refused(name, tensors | {"junk": torch.ones(2)}, path, begins + r"1 tensors are unknown \(junk\)")
    other = tensors | {first: torch.ones(2, 3, 4)}
    refused(name, other, path, begins + r"1 tensors are of another shape \(.* \(2, 3, 4\) instead of \(")


@pytest.mark.parametrize("name", ["uni", "phikon"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_weights_are_refused(small, weights_of, tmp_path, name, value):
    tensors, _ = weights_of(small(name))
    one = sorted(tensors)[3]
    tensors[one] = tensors[one].clone()
    tensors[one].view(-1)[-1] = value
    refused(name, tensors, tmp_path / "x.safetensors", rf"weights that are not finite, in 1 tensors: {one}\. Get a new")


def test_weights_of_another_encoder(small, weights_of, tmp_path):
    small("phikon-v2")
    tensors, _ = weights_of(small("uni"))
    match = r"'phikon-v2': \d+ tensors are missing \(.*, \.\.\.\); \d+ tensors are unknown \(.*, \.\.\.\)"
    refused("phikon-v2", tensors, tmp_path / "x.safetensors", match)


def test_heads_and_prefixes_are_ignored(small, weights_of, tmp_path):
    tensors, _ = weights_of(small("phikon"))
    save_file(tensors, tmp_path / "bare.safetensors")
    headed = {f"vit.{name}": value for name, value in tensors.items()} | {"vit.pooler.dense.bias": torch.ones(48)}
    save_file(headed | {"classifier.weight": torch.full((2, 48), torch.nan)}, tmp_path / "headed.safetensors")
    bare = ds.encoders.get("phikon", weights=tmp_path / "bare.safetensors")
    assert ds.encoders.get("phikon", weights=tmp_path / "headed.safetensors").fingerprint == bare.fingerprint


def test_timm_weights_load(tmp_path):
    import timm

    torch.manual_seed(0)
    published = timm.create_model("resnet50", pretrained=False)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    encoder = ds.encoders.get("resnet50", weights=tmp_path)
    published.reset_classifier(0)
    pixels = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.module(pixels), published.eval()(pixels))


def test_hash_does_not_depend_on_order_or_format():
    # The fingerprints of feature tables and models are made of it, so that it has to stay what it is.
    a = {"x": torch.arange(6.0).view(2, 3), "y": torch.ones(2)}
    assert hash_tensors(a) == hash_tensors({"y": torch.ones(2, dtype=torch.float16), "x": a["x"]}) == "f9fabbc48fa959cd"
    others = [{"x": a["x"].view(3, 2), "y": a["y"]}, {"z": a["x"], "y": a["y"]}, {"x": a["x"] + 1, "y": a["y"]}]
    assert len({hash_tensors(a), *map(hash_tensors, others)}) == 4
