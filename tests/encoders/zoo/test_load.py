import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deepspot as ds
from deepspot.encoders import EncoderCard
from deepspot.encoders._zoo.specs import SPECS
from deepspot.encoders._zoo.weights import identity


def test_load_from_file(uni, three_tiles):
    spec, _, path = uni
    encoder = ds.encoders.get("uni", weights=path)
    assert encoder.card == spec.card
    assert encoder.encode(three_tiles).shape == (3, 48)
    assert not any(weights.requires_grad or weights.is_meta for weights in encoder.module.parameters())


def test_license_is_logged_once(uni, log):
    *_, path = uni
    ds.encoders.get("uni", weights=path)
    ds.encoders._registry._built.clear()
    ds.encoders.get("uni", weights=path)
    assert log == [
        "Encoder uni: the license of its weights is CC-BY-NC-ND-4.0, see https://huggingface.co/MahmoodLab/UNI."
    ]


@pytest.mark.parametrize("name", ["uni", "phikon"])
def test_fingerprint_is_the_same_whichever_way_the_weights_came(monkeypatch, small, weights_of, tmp_path, name):
    spec = small(name)
    tensors, _ = weights_of(spec)
    safe, pickled, old = tmp_path / "a.safetensors", tmp_path / "b.bin", tmp_path / "old.pth"
    save_file(tensors, safe)
    torch.save(dict(reversed(tensors.items())), pickled)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    folder = tmp_path / "weights" / name
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    ways = [safe, pickled, old, folder]
    found = [ds.encoders.get(name, weights=way).fingerprint for way in ways]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, token: safe)
    found.append(ds.encoders.get(name).fingerprint)
    monkeypatch.setattr(ds.settings, "weights_dir", tmp_path / "weights")
    found.append(ds.encoders.get(name).fingerprint)
    assert len(set(found)) == 1
    others, _ = weights_of(spec, seed=1)
    save_file(others, safe)
    assert ds.encoders.get(name, weights=safe).fingerprint not in found


def test_fingerprint_changes_with_one_bit(uni):
    _, tensors, path = uni
    before = ds.encoders.get("uni", weights=path).fingerprint
    last = sorted(tensors)[-1]
    value = tensors[last].clone()
    value.view(-1)[-1] = torch.nextafter(value.view(-1)[-1], torch.tensor(torch.inf))
    save_file(tensors | {last: value}, path)
    assert ds.encoders.get("uni", weights=path).fingerprint != before


def test_identity_does_not_depend_on_library_versions():
    # Pinned: features that were made with these words are taken again only as long as they stay.
    assert identity(SPECS["uni"], "0") == "zoo 1, d23d9ea2c665404d, 0"
    assert len({identity(spec, "0") for spec in SPECS.values()}) == len(SPECS) - 2  # three that share a network


def test_resizing_is_part_of_the_fingerprint(small, weights_of, tmp_path):
    small("h-optimus-0_bilinear")
    tensors, _ = weights_of(small("h-optimus-0"))
    save_file(tensors, tmp_path / "x.safetensors")
    names = ["h-optimus-0", "h-optimus-0_bilinear"]
    assert len({ds.encoders.get(name, weights=tmp_path).fingerprint for name in names}) == 2


def test_loaded_once_for_the_same_weights(uni, weights_of):
    spec, _, path = uni
    first = ds.encoders.get("uni", weights=path)
    assert ds.encoders.get("uni", weights=str(path)) is first
    other = path.with_name("other.safetensors")
    save_file(weights_of(spec, seed=1)[0], other)
    second = ds.encoders.get("uni", weights=other)
    assert second is not first
    assert second.fingerprint != first.fingerprint
    assert ds.encoders.get("uni", weights=path) is not second


def test_weights_that_were_replaced_are_read_again(uni):
    *_, path = uni
    before = ds.encoders.get("uni", weights=path)
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    assert ds.encoders.get("uni", weights=path).fingerprint != before.fingerprint


@pytest.mark.parametrize("name", ["conch_v1_5", "hibou-b", "hibou-l"])
def test_refused_encoders_give_reason_and_alternative(name, tmp_path):
    match = (
        rf"'{name}' is not loaded: .*trust_remote_code.*runs no code.*ds\.encoders\.register\(card, load\)`; its page"
    )
    for weights in (None, tmp_path):
        with pytest.raises(ValueError, match=match):
            ds.encoders.get(name, weights=weights)
    assert not ds.encoders.available().loc[name, "ready"]


def test_refused_encoder_can_be_registered():
    card = EncoderCard(name="hibou-l", dim=3, input_px=8)
    ds.encoders.register(card, lambda: torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    assert ds.encoders.get("hibou-l").card == card
    assert ds.encoders.available().loc["hibou-l", "ready"]
    with pytest.raises(ValueError, match="already registered"):
        ds.encoders.register(card, torch.nn.Identity)


def test_weights_argument_needs_a_zoo_encoder(cheap_encoder, tmp_path):
    with pytest.raises(ValueError, match="Encoder 'lite0' loads its own weights: omit `weights` and `token`"):
        ds.encoders.get("lite0", weights=tmp_path)
    with pytest.raises(
        ValueError, match="`weights` can only be combined with the name of an encoder, but an encoder was passed"
    ):
        ds.encoders.get(cheap_encoder, weights=tmp_path)


def test_weights_dir_without_internet(monkeypatch, slide, uni):
    """Weights in a folder, no network, and the name is enough."""
    spec, _, path = uni
    monkeypatch.setattr(ds.settings, "weights_dir", path.parent)
    assert ds.encoders.available().loc["uni", "ready"]
    slide.shapes["spots"] = slide.shapes["spots"].iloc[:3]
    ds.pp.embed(slide, "uni")
    table = slide["uni_spots"]
    assert table.shape == (3, 48)
    assert table.obsm["subspots"].shape == (3, 9, 48)
    assert np.ptp(table.X, axis=0).max() > 0
    assert EncoderCard.model_validate_json(table.uns["deepspot"]["encoder"]) == spec.card
