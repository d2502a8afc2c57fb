import pytest

import deepspot as ds
from deepspot.encoders import EncoderCard, _lazyslide
from deepspot.encoders._lazyslide import READ, runs_code

NEED_CODE = {"conceptclip", "conch_v1.5", "titan", "genbio-pathfm", "hibou-b", "open-midnight", "rudolfv2", "omiclip"}


@pytest.fixture
def registry():
    from lazyslide_models import MODEL_REGISTRY

    return MODEL_REGISTRY


def test_only_reviewed_classes_are_instantiated(registry):
    images = {key for key, model in registry.items() if hasattr(model, "encode_image")}
    assert {key for key in images if not runs_code(key, registry[key])} == set(READ)
    assert images - set(READ) >= NEED_CODE


@pytest.mark.parametrize("key", ["hibou-b", "open-midnight", "omiclip", "ctranspath", "titan"])
def test_changed_source_is_refused(monkeypatch, registry, key):
    monkeypatch.setattr(_lazyslide, "READ", (*READ, key))
    assert "which runs code from a weights file" in runs_code(key, registry[key])


@pytest.mark.parametrize("key", sorted(NEED_CODE))
def test_unreviewed_models_are_refused_before_instantiation(monkeypatch, registry, key):
    monkeypatch.setattr(registry[key], "__init__", lambda self: pytest.fail("was instantiated"))
    with pytest.raises(ValueError, match=rf"'lazyslide:{key}' is not loaded: .* reviewed.*license"):
        ds.encoders.get(f"lazyslide:{key}")


def test_source_that_cannot_be_read_is_not_trusted(monkeypatch, registry):
    def unreadable(module):
        raise OSError

    monkeypatch.setattr("inspect.getsource", unreadable)
    assert "cannot be read" in runs_code("gpfm", registry["gpfm"])


def test_other_models_are_adapted_from_registry(monkeypatch, registry, log):
    made = []

    def adapt(model, *, name=None):
        made.append(type(model).__name__)
        return EncoderCard(name=name, dim=1)

    monkeypatch.setattr(_lazyslide, "adapt", adapt)
    monkeypatch.setattr(registry["gpfm"], "__init__", lambda self: None)
    assert ds.encoders.get("lazyslide:gpfm").name == "lazyslide:gpfm"
    ds.encoders.get("lazyslide:gpfm")
    assert made == ["GPFM"]
    assert log == [
        "Encoder lazyslide:gpfm: the license of its weights is CC BY-NC-ND 4.0, see https://huggingface.co/majiabo/GPFM."
    ]


@pytest.mark.parametrize("given", [{"weights": "x"}, {"token": "hf_secret"}])
def test_weights_and_token_are_refused(given):
    with pytest.raises(ValueError, match=r"loads its own weights: omit `weights` and `token`.*HF_TOKEN"):
        ds.encoders.get("lazyslide:gpfm", **given)


@pytest.mark.parametrize("key", ["nothing", "instanseg"])
def test_unknown_key_is_refused(key):
    with pytest.raises(KeyError, match=rf"Key `'{key}'` not found in `lazyslide_models\.MODEL_REGISTRY`. Available"):
        ds.encoders.get(f"lazyslide:{key}")


def test_missing_lazyslide_models_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lazyslide_models", None)
    with pytest.raises(ImportError, match=r"need lazyslide-models\. Install it with `pip install \"\.\[zoo\]\"`"):
        ds.encoders.get("lazyslide:gpfm")
