import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import deepspot as ds
from deepspot.models._bundle import CARD, WEIGHTS, _sha256


@pytest.fixture(scope="module")
def model(bags, targets):
    config = {"width": 8, "members": 2, "n_phi": 2, "n_rho": 3}
    return ds.models.DeepSpot(network=config, training={"epochs": 2, "gate": "off"}, seed=0).fit(bags, targets)


@pytest.fixture
def bundle(model, tmp_path):
    model.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def rewrite(bundle, change):
    """Change the weights and bring the card's hash up to date, as a careless author would."""
    tensors = load_file(bundle / WEIGHTS)
    with safe_open(bundle / WEIGHTS, "numpy") as file:
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, bundle / WEIGHTS, metadata)
    card = json.loads((bundle / CARD).read_text())
    (bundle / CARD).write_text(json.dumps({**card, "sha256": _sha256(bundle / WEIGHTS)}))


def test_a_loaded_model_predicts_the_same(bags, model, bundle):
    loaded = ds.models.load(bundle)
    np.testing.assert_array_equal(loaded.predict(bags), model.predict(bags))
    assert loaded.card.model_copy(update={"sha256": ""}) == model.card


def test_a_bundle_is_two_files(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == [CARD, WEIGHTS]


def test_half_precision_is_half_as_large_and_nearly_the_same(bags, model, bundle, tmp_path):
    model.save(tmp_path / "half", half=True)
    size, half = ((path / WEIGHTS).stat().st_size for path in (bundle, tmp_path / "half"))
    assert half < 0.7 * size
    np.testing.assert_allclose(ds.models.load(tmp_path / "half").predict(bags), model.predict(bags), atol=1e-3)


def test_nothing_is_overwritten_unasked(bags, model, bundle, tmp_path):
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save(bundle)
    model.save(bundle, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(ValueError, match="no bundle"):
        model.save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"


def test_a_failed_save_leaves_the_old_bundle(model, bundle, monkeypatch):
    before = (bundle / CARD).read_text()
    monkeypatch.setattr("deepspot.models._bundle._sha256", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save(bundle, overwrite=True)
    assert (bundle / CARD).read_text() == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


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
        (lambda t: t.update({"members.9.phi.0.bias": np.zeros(8, np.float32)}), "no part of it uses"),
        (lambda t: t.update({"scaler.mean": np.zeros(7, np.float32)}), "must be of shape"),
    ],
)
def test_weights_that_do_not_fit_the_card_are_refused(bundle, change, message):
    rewrite(bundle, change)
    with pytest.raises(ValueError, match=message):
        ds.models.load(bundle)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"format": 2}, "format 2"), ({"genes": "all"}, "does not describe"), ({"surprise": 1}, "does not describe")],
)
def test_a_card_that_is_not_understood_is_refused(bundle, fields, message):
    card = json.loads((bundle / CARD).read_text())
    (bundle / CARD).write_text(json.dumps({**card, **fields}))
    with pytest.raises(ValueError, match=message):
        ds.models.load(bundle)


def test_a_broken_or_missing_card_is_refused(bundle, tmp_path):
    (bundle / CARD).write_text("{")
    with pytest.raises(ValueError, match="no readable JSON"):
        ds.models.load(bundle)
    with pytest.raises(FileNotFoundError, match="no model bundle"):
        ds.models.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="her2st"):
        ds.models.load("no_such_model")


@pytest.mark.parametrize("change", [{"genes": list("ZYXWVU")}, {"licence": "MIT"}, {"epochs": 99}])
def test_an_altered_card_is_refused(bundle, change):
    card = json.loads((bundle / CARD).read_text())
    (bundle / CARD).write_text(json.dumps({**card, **change}))
    with pytest.raises(ValueError, match="altered"):
        ds.models.load(bundle)


def test_the_fingerprint_follows_what_a_prediction_depends_on(model, bundle):
    from copy import copy

    assert ds.models.load(bundle).fingerprint == model.fingerprint
    other = copy(model)
    other.card = model.card.model_copy(update={"genes": list("ABCDEF")})
    assert other.fingerprint != model.fingerprint


def test_an_unfitted_model_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        ds.models.DeepSpot().save(tmp_path / "x")


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_blend_and_ridge_alone_survive(bags, targets, tmp_path, weight):
    """Ridge is kept as plain numbers, and members only if they have a say."""
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
    if model.ridge is None:
        model.ridge = ds.models.Ridge().fit(bags, targets)
    model.save(tmp_path / "blend")
    again = ds.models.load(tmp_path / "blend")
    np.testing.assert_allclose(again.predict(bags), model.predict(bags), atol=1e-5)
    assert again.fingerprint == model.fingerprint
    assert again.card.reliability == model.card.reliability
    np.testing.assert_array_equal(again.novelty.score(bags.spot), model.novelty.score(bags.spot))
    assert len(again.members) == (weight > 0)
    rewrite(tmp_path / "blend", lambda t: t.pop("novelty.core"))
    with pytest.raises(ValueError, match="novelty"):
        ds.models.load(tmp_path / "blend")
