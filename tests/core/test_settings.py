from pathlib import Path

import pytest

import deepspot as ds
from deepspot._core.settings import Settings


def test_unknown_settings_are_refused_with_the_available_ones():
    with pytest.raises(AttributeError, match=r"no setting 'batchsize'. Available settings: \['device', 'batch_size', "):
        ds.settings.batchsize = 3


@pytest.mark.parametrize("name", ["batch_size", "workers", "max_table_gb"])
@pytest.mark.parametrize("value", [0, -1])
def test_values_must_be_positive(name, value):
    fresh = Settings()
    with pytest.raises(ValueError, match=f"`settings.{name}` must be above 0, got {value}"):
        setattr(fresh, name, value)
    assert getattr(fresh, name) == getattr(Settings(), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", "8"),
        ("batch_size", True),
        ("workers", 1.5),
        ("workers", None),
        ("embeddings_gb", None),
        ("seed", "x"),
        ("device", 5),
        ("progress", 1),
        ("cache_dir", 5),
    ],
)
def test_types(name, value):
    fresh = Settings()
    with pytest.raises(TypeError, match=rf"`settings\.{name}` must be .*, got {value!r}"):
        setattr(fresh, name, value)
    assert getattr(fresh, name) == getattr(Settings(), name)


def test_seed_is_one_that_all_libraries_take():
    with pytest.raises(ValueError, match=r"`settings\.seed` must be from 0 to 4294967295, got -1"):
        Settings().seed = -1


def test_cache_folder(monkeypatch, tmp_path):
    fresh = Settings()
    monkeypatch.setenv("DEEPSPOT_CACHE", str(tmp_path / "env"))
    assert fresh.cache("a", "b") == tmp_path / "env" / "a" / "b"
    fresh.cache_dir = tmp_path / "own"
    assert fresh.cache() == tmp_path / "own"
    assert not (tmp_path / "own").exists()
    fresh.cache_dir = "~/own"
    assert fresh.cache() == Path.home() / "own"
    monkeypatch.delenv("DEEPSPOT_CACHE")
    assert Settings().cache("x").parts[-2:] == ("deepspot", "x")


def test_weights_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DEEPSPOT_WEIGHTS", raising=False)
    fresh = Settings()
    assert fresh.weights() is None
    monkeypatch.setenv("DEEPSPOT_WEIGHTS", str(tmp_path))
    assert fresh.weights() == tmp_path
    fresh.weights_dir = "~/weights"
    assert fresh.weights() == Path.home() / "weights"
