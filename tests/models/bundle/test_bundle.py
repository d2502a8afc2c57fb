import hashlib
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import deepspot as ds
from deepspot.models._bundle.bundle import CARD, WEIGHTS


@pytest.fixture(scope="module")
def model(bags, targets):
    config = {"width": 8, "members": 2, "n_phi": 2, "n_rho": 3}
    return ds.models.DeepSpot(network=config, training={"epochs": 2, "gate": "off"}, seed=0).fit(bags, targets)


@pytest.fixture
def bundle(model, tmp_path):
    model.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def rewrite(bundle, change):
    """Change the weights, and update their hash in the card."""
    tensors = load_file(bundle / WEIGHTS)
    with safe_open(bundle / WEIGHTS, "numpy") as file:
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, bundle / WEIGHTS, metadata)
    card = json.loads((bundle / CARD).read_text())
    (bundle / CARD).write_text(json.dumps({**card, "sha256": sha256(bundle / WEIGHTS)}))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reseal(bundle, change):
    """Change the card, and update both hashes like an attacker."""
    from deepspot.models._bundle.parse import card_hash

    card = json.loads((bundle / CARD).read_text())
    change(card)
    save_file(load_file(bundle / WEIGHTS), bundle / WEIGHTS, {"card": card_hash(card)})
    (bundle / CARD).write_text(json.dumps({**card, "sha256": sha256(bundle / WEIGHTS)}))


@pytest.fixture
def small(tiny, tmp_path):
    tiny.save(tmp_path / "small")
    return tmp_path / "small"


def test_a_loaded_model_predicts_the_same(bags, model, bundle):
    loaded = ds.models.load(bundle)
    np.testing.assert_array_equal(loaded.predict(bags), model.predict(bags))
    assert loaded.card.model_copy(update={"sha256": ""}) == model.card


def test_a_bundle_is_two_files(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == [CARD, WEIGHTS]


def test_half_precision_is_half_as_large_and_nearly_the_same(bags, model, bundle, tmp_path):
    model.save(tmp_path / "half", half_precision=True)
    size, half = ((path / WEIGHTS).stat().st_size for path in (bundle, tmp_path / "half"))
    assert half < 0.7 * size
    np.testing.assert_allclose(ds.models.load(tmp_path / "half").predict(bags), model.predict(bags), atol=1e-3)


def test_save_overwrites_only_bundles_and_only_if_allowed(bags, model, bundle, tmp_path):
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save(bundle)
    model.save(bundle, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(ValueError, match="not a bundle"):
        model.save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"


def test_a_failed_save_leaves_the_old_bundle(model, bundle, monkeypatch):
    before = (bundle / CARD).read_text()
    monkeypatch.setattr(
        "deepspot.models._bundle.bundle._sha256", lambda raw: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        model.save(bundle, overwrite=True)
    assert (bundle / CARD).read_text() == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_full_disk_is_an_oserror(model, tmp_path, full_disk):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_or_altered_file_is_refused(bundle, data):
    content = (bundle / WEIGHTS).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    flipped = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
    (bundle / WEIGHTS).write_bytes(data.draw(st.sampled_from([content[:at], flipped])))
    try:
        with pytest.raises(ValueError, match="truncated or altered"):
            ds.models.load(bundle)
    finally:
        (bundle / WEIGHTS).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["members.0.phi.0.weight"].fill(np.nan), "not finite"),
        (lambda t: t["scaler.std"].fill(0), "not positive"),
        (lambda t: t.pop("scaler.mean"), "scaler.mean"),
        (lambda t: t.pop("members.1.rho.0.bias"), "does not fit its card"),
        (lambda t: t.update({"members.0.phi.0.bias": np.zeros(9, np.float32)}), "does not fit its card"),
        (lambda t: t.update({"members.0.phi.0.bias": np.zeros(8, np.float64)}), "as 'F64'; weights are F16 or F32"),
        (lambda t: t["members.0.rho.0.weight"].fill(1e30), "above 1e"),
        (lambda t: t.pop("novelty.core"), "novelty.core"),
        (lambda t: t.pop("novelty.threshold"), "novelty.threshold"),
        (lambda t: t.update({"novelty.core": np.ones((600, 16), np.float32)}), "novelty.core"),
        (lambda t: t["novelty.core"].fill(3), "novelty"),
        (lambda t: t["novelty.threshold"].fill(1e-30), "novelty"),
        (lambda t: t.update({"members.9.phi.0.bias": np.zeros(8, np.float32)}), "which the model does not use"),
        (lambda t: t.update({"scaler.mean": np.zeros(7, np.float32)}), "must be of shape"),
    ],
)
def test_weights_that_do_not_fit_the_card_are_refused(bundle, change, message):
    rewrite(bundle, change)
    with pytest.raises(ValueError, match=message):
        ds.models.load(bundle)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format 2, of a later version: this one reads format 1. Update deepspot"),
        ({"format": True}, "format True, and only format 1 is known"),
        ({"format": "1"}, "format '1', and only"),
        ({"genes": "all"}, "does not describe a model .genes: "),
        ({"genes": []}, "does not describe"),
        ({"genes": list("AABCDE")}, "must be unique"),
        ({"surprise": 1}, "unknown fields .'surprise'.. They may be from a later version: update deepspot"),
        ({"preset": "secret"}, "`preset` must be one of .*, got 'secret'"),
        ({"dim": 0}, "dim: "),
        ({"versions": {"a/b": "1"}}, "versions.a/b"),
        ({"versions": {"a" * 101: "1"}}, "versions"),
    ],
)
def test_an_invalid_card_is_refused(bundle, fields, message):
    card = json.loads((bundle / CARD).read_text())
    (bundle / CARD).write_text(json.dumps({**card, **fields}))
    with pytest.raises(ValueError, match=message):
        ds.models.load(bundle)


def test_a_broken_or_missing_card_is_refused(bundle, tmp_path):
    (bundle / CARD).write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        ds.models.load(bundle)
    with pytest.raises(FileNotFoundError, match="not a model bundle"):
        ds.models.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="her2st"):
        ds.models.load("no_such_model")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 1', '"format": 1, "format": 1', "it has 'format' twice"),
        ('"seed": 0', '"seed": 1e999', "not a finite number"),
        ('"seed": 0', '"seed": 1' + "0" * 30, "31 digits"),
    ],
)
def test_ambiguous_json_is_refused(small, old, new, message):
    """The parser of pydantic accepts these."""
    card = (small / CARD).read_text()
    assert card.count(old) == 1
    (small / CARD).write_text(card.replace(old, new))
    with pytest.raises(ValueError, match=message):
        ds.models.load(small)


@pytest.mark.parametrize("change", [{"genes": list("ZYXWVU")}, {"license": "MIT"}, {"epochs": 99}])
def test_an_altered_card_is_refused(bundle, change):
    card = json.loads((bundle / CARD).read_text())
    (bundle / CARD).write_text(json.dumps({**card, **change}))
    with pytest.raises(ValueError, match="altered"):
        ds.models.load(bundle)


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": NaN}',
        b'{"format": 1, "seed": 1e999}',
        b'{"format": 1, "format": 1}',
        b"[" * 10**5 + b"]" * 10**5,
        b'{"format": 1' + b"0" * 5000 + b"}",
        b"\xff\xfe",
        b"",
        b"[]",
        b"null",
        b'{"a": "' + b"x" * 16_000_000 + b'"}',
    ],
)
def test_invalid_json_is_refused(small, content):
    (small / CARD).write_bytes(content)
    with pytest.raises(ValueError, match=r"small/card.json .*(Get a new copy|Update deepspot)") as error:
        ds.models.load(small)
    assert type(error.value) is ds.errors.InputError or "larger" in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["dim"], 10**12, "numbers, more than"),
        (["network", "width"], 10**12, "numbers, more than"),
        (["network", "n_phi"], 10**9, "a network of 4,000,000,004 parts"),
        (["network", "members"], 10**18, "parts, more than"),
        (["geometry", "tile", "grid"], 10**9, "not a geometry of spots"),
        (["geometry", "tile", "input_px"], 10**6, "larger than the limit of 10000 px"),
        (["geometry", "neighbors", "reach"], 1e300, "not a geometry of spots"),
        (["network", "n_rho"], 10**9, "parts, more than"),
        (["name"], "\x1b[2J", "control characters"),
        (["license"], "x" * 10_000, "too long"),
        (["genes", 0], "A\x00", "control characters"),
        (["gate", "weight"], -1, "share of the network"),
        (["reliability", "r"], [0.1], "`reliability.r` has 1 genes instead of 4"),
        (["reliability", "r"], [9, 0, 0, 0], "beyond 1"),
        (["reliability", "r_beyond_axis"], [0.1], "`reliability.r_beyond_axis` has 1 genes instead of 4"),
        (["reliability", "r_ceiling"], [0, 0, 0, 1e300], "beyond 1"),
        (["encoder", "dim"], 7, "embeddings of length 7, but the model takes 6"),
    ],
)
def test_a_card_beyond_the_limits_is_refused_before_tensors_are_made(small, monkeypatch, where, value, message):
    def change(card):
        for key in where[:-1]:
            card = card[key]
        card[where[-1]] = value
        if where == ["dim"]:
            whole["encoder"]["dim"] = value

    whole = {}
    reseal(small, lambda card: (whole.update(card), change(card))[0])
    monkeypatch.setattr("deepspot.models._network.network.Network.__init__", None)
    monkeypatch.setattr("safetensors.torch.load", None)
    with pytest.raises(ValueError, match=message):
        ds.models.load(small)


def test_error_messages_of_hostile_cards_are_short(small):
    for content in (
        '{"format": "' + "x" * 10**6 + '"}',
        '{"format": 1, "' + "x" * 10**6 + '": 1}',
        '{"format": 1, "' + "x" * 10**6 + '": 1, "' + "x" * 10**6 + '": 2}',
        '{"format": 1, "slides": [' + "{}," * 10**5 + "1]}",
        '{"format": 1, "genes": [' + "[]," * 10**6 + "1]}",
        "{" + "".join(f'"{i}": 1,' for i in range(10**5)) + '"format": 1, "format": 1}',
    ):
        (small / CARD).write_text(content)
        with pytest.raises(ValueError, match=r"small/card\.json") as error:
            ds.models.load(small)
        assert len(str(error.value)) < 1000


def test_the_size_of_the_weights_is_limited_by_the_card(small, monkeypatch):
    monkeypatch.setattr("deepspot.models._bundle.bundle.LARGEST_HEADER", 2_000)
    with (small / WEIGHTS).open("ab") as file:
        file.write(bytes(50_000))
    with pytest.raises(ValueError, match=r"is larger than the limit of .* bytes"):
        ds.models.load(small)


@pytest.mark.parametrize(
    "start", [b"", b"\x01", bytes(8), b"\xff" * 8, (10**6).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]"]
)
def test_a_weights_file_without_a_header_is_refused(small, start):
    (small / WEIGHTS).write_bytes(start)
    card = json.loads((small / CARD).read_text())
    (small / CARD).write_text(json.dumps({**card, "sha256": sha256(small / WEIGHTS)}))
    with pytest.raises(ValueError, match=r"model.safetensors is not a readable"):
        ds.models.load(small)


def test_a_model_can_be_pinned(bags, small):
    known = ds.models.load(small).card.sha256
    assert ds.models.load(small, sha256=known.upper()).card.sha256 == known
    with pytest.raises(ValueError, match=f"is not the expected model: its `sha256` is '{known}'"):
        ds.models.load(small, sha256="0" * 64)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        ds.models.load(small, sha256="abc")


def test_a_model_without_ood_detector_and_encoder_fingerprint_is_saved_and_loaded(fuzzing, tiny, tmp_path):
    """This is the case for converted checkpoints."""
    from deepspot.models._confidence.ood import OODDetector

    tiny.ood = OODDetector.unknown(tiny.card.dim)
    tiny.card = tiny.card.model_copy(update={"encoder_fingerprint": "", "gate": None, "reliability": None})
    tiny.save(tmp_path / "model")
    again = ds.models.load(tmp_path / "model")
    assert not again.ood.known
    assert again.card.encoder_fingerprint == ""
    assert again.fingerprint == tiny.fingerprint
    again.save(tmp_path / "again")
    assert ds.models.load(tmp_path / "again").ood.core.size == 0


def test_weights_in_float64_are_saved_in_float32(bags, tiny, tmp_path):
    from deepspot.models._inputs import Scaler

    tiny.scaler = Scaler(tiny.scaler.mean.astype(np.float64), tiny.scaler.std.astype(np.float64))
    tiny.save(tmp_path / "model")
    assert {value.dtype for value in load_file(tmp_path / "model" / WEIGHTS).values()} == {np.dtype(np.float32)}


def test_loading_does_not_change_the_random_state(small):
    import torch

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ds.models.load(small)
    assert torch.rand(1) == expected


def test_a_bundle_without_weights_is_incomplete(small):
    (small / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"small has no model.safetensors. The bundle is incomplete"):
        ds.models.load(small)


@pytest.mark.parametrize("name", ["model.zip", "model.ZIP"])
def test_a_model_is_not_saved_as_a_zip(tiny, tmp_path, name):
    with pytest.raises(ValueError, match=r"saved as a folder, not as a zip like .*model\.(zip|ZIP)\. Pass '.*model'"):
        tiny.save(tmp_path / "new" / name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.zip", "model.pkl"])
def test_a_file_is_not_loaded(small, tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as file:
        file.write(small / CARD, CARD)
        file.write(small / WEIGHTS, WEIGHTS)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"{name} is a file, .*unpack it and pass the folder"):
        ds.models.load(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_fitted_ood_detectors_are_within_the_limits_of_a_bundle():
    from deepspot.models._bundle import bundle, card
    from deepspot.models._confidence import ood

    assert ood.CORE <= card.MOST_CORE
    assert ood.LEAST >= bundle.LEAST_DISTANCE


def test_a_model_is_not_saved_to_an_address(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"Call `model\.upload`"):
        tiny.save("hf://org/name")
    assert not any(tmp_path.iterdir())


def test_the_fingerprint_follows_what_a_prediction_depends_on(model, bundle):
    from copy import copy

    assert ds.models.load(bundle).fingerprint == model.fingerprint
    other = copy(model)
    other.card = model.card.model_copy(update={"genes": list("ABCDEF")})
    assert other.fingerprint != model.fingerprint


def test_an_unfitted_model_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        ds.models.DeepSpot().save(tmp_path / "x")


@pytest.fixture
def blend(bags, targets):
    """A model that is half ridge."""
    config = {"network": {"width": 8, "members": 1}, "training": {"epochs": 2}, "seed": 0}
    model = ds.models.DeepSpot(**config).fit(bags, targets, slides=np.arange(144) // 48)
    gate = model.card.gate.model_copy(update={"weight": 0.5, "verdict": "blend"})
    model.card = model.card.model_copy(update={"gate": gate})
    config["training"]["gate"] = "off"
    model.members = ds.models.DeepSpot(**config).fit(bags, targets).members
    model.ridge = ds.models.Ridge().fit(bags, targets)
    return model


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_blend_and_ridge_alone_are_saved_and_loaded(bags, targets, tmp_path, weight):
    """Ridge is saved as plain numbers, and members only if they predict."""
    config = {"network": {"width": 8, "members": 1}, "training": {"epochs": 2}, "seed": 0}
    model = ds.models.DeepSpot(**config).fit(bags, targets, slides=np.arange(144) // 48)
    gate = model.card.gate.model_copy(update={"weight": weight, "verdict": "blend" if weight else "ridge"})
    model.card = model.card.model_copy(update={"gate": gate})
    if weight == 0:
        model.members = []
    else:
        model.members = (
            ds.models.DeepSpot(**config | {"training": {"epochs": 2, "gate": "off"}}).fit(bags, targets).members
        )
    if not hasattr(model.ridge, "coef"):
        model.ridge = ds.models.Ridge().fit(bags, targets)
    model.save(tmp_path / "blend")
    again = ds.models.load(tmp_path / "blend")
    np.testing.assert_allclose(again.predict(bags), model.predict(bags), atol=1e-5)
    assert again.fingerprint == model.fingerprint
    assert again.card.reliability == model.card.reliability
    np.testing.assert_array_equal(again.ood_score(bags.spot), model.ood_score(bags.spot))
    assert len(again.members) == (weight > 0)
    rewrite(tmp_path / "blend", lambda t: t.pop("novelty.core"))
    with pytest.raises(ValueError, match="novelty"):
        ds.models.load(tmp_path / "blend")


def test_bounds_of_ridge_are_exact_and_bundles_without_them_do_not_clip(bags, blend, tmp_path):
    blend.save(tmp_path / "half", half_precision=True)
    half = ds.models.load(tmp_path / "half")
    np.testing.assert_array_equal(half.ridge.low, blend.ridge.low)
    np.testing.assert_array_equal(half.ridge.high, blend.ridge.high)

    def without_bounds(tensors):
        del tensors["ridge.low"], tensors["ridge.high"]

    blend.save(tmp_path / "old")
    rewrite(tmp_path / "old", without_bounds)
    old, far = ds.models.load(tmp_path / "old"), replace(bags, spot=bags.spot * 10)
    assert np.abs(old.predict(far) - blend.predict(far)).max() > 1
    assert old.fingerprint != blend.fingerprint
    old.save(tmp_path / "again")
    np.testing.assert_array_equal(ds.models.load(tmp_path / "again").predict(far), old.predict(far))
    rewrite(tmp_path / "half", lambda tensors: tensors.pop("ridge.low"))
    with pytest.raises(ValueError, match=r"'ridge.low' must be of shape"):
        ds.models.load(tmp_path / "half")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("{}")])
def test_a_folder_with_the_file_names_of_a_bundle_is_not_replaced(model, tmp_path, make):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / WEIGHTS).write_text("precious")
    make(folder / CARD)
    with pytest.raises(ValueError, match="not a bundle"):
        model.save(folder, overwrite=True)
    assert (folder / WEIGHTS).read_text() == "precious"
