import os

import numpy as np
import pytest

import deepspot as ds
from deepspot._embeddings import Shelf, shelf

RNG = np.random.default_rng(0)
SPOT, SUBSPOTS = RNG.normal(size=(5, 7)).astype(np.float32), RNG.normal(size=(5, 9, 7)).astype(np.float32)
BYTES = 1_000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache" / "embeddings"


def fill(fingerprint, tmp_path, expected=BYTES):
    with shelf(fingerprint, expected, tmp_path) as kept:
        (kept.folder / "block_000000.safetensors").write_bytes(b"x" * expected)
    return kept.folder


def test_what_is_put_comes_back_in_half_precision(tmp_path):
    kept = Shelf(tmp_path / "slide")
    kept.put(3, SPOT, SUBSPOTS)
    np.testing.assert_array_equal(kept.get(3, "spot"), SPOT.astype(np.float16))
    np.testing.assert_array_equal(kept.get(3, "subspots"), SUBSPOTS.astype(np.float16))
    assert kept.get(4, "spot") is None
    assert [path.name for path in kept.folder.iterdir()] == ["block_000003.safetensors"]


def test_a_damaged_file_is_as_good_as_none(tmp_path):
    kept = Shelf(tmp_path)
    kept.put(0, SPOT, None)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    assert kept.get(0, "spot") is None
    kept.put(0, SPOT, None)
    assert kept.get(0, "spot") is not None


def test_nobody_else_may_look_into_it(cache, tmp_path):
    with shelf("abc", BYTES, tmp_path) as kept:
        kept.put(0, SPOT, None)
    assert kept.folder == cache / "abc"
    assert kept.folder.stat().st_mode & 0o077 == 0


def test_those_not_used_for_longest_make_room(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "embeddings_gb", 2.5 * BYTES / 1e9)
    for age, name in enumerate(("b", "a"), start=1):
        os.utime(fill(name, tmp_path), (1e9 - age, 1e9 - age))
    fill("b", tmp_path)  # used again
    fill("c", tmp_path)
    assert sorted(path.name for path in cache.iterdir()) == ["b", "c"]


@pytest.mark.parametrize("limit", [0, 0.5 * BYTES / 1e9])
def test_off_or_too_large_they_are_gone_afterwards(cache, tmp_path, monkeypatch, limit, log):
    monkeypatch.setattr(ds.settings, "embeddings_gb", limit)
    with shelf("abc", BYTES, tmp_path) as kept:
        kept.put(0, SPOT, None)
        assert kept.folder.parent == tmp_path
    assert not kept.folder.exists()
    assert not cache.exists()
    assert any("are not kept" in line for line in log) == (limit > 0)


def test_the_path_is_stated(cache, tmp_path, log):
    fill("abc", tmp_path)
    assert str(cache / "abc") in log[-1]
    assert "clear_cache" in log[-1]


def test_clear_cache_leaves_downloads(cache, tmp_path):
    fill("abc", tmp_path)
    (cache.parent / "her2st").mkdir()
    ds.clear_cache()
    assert [path.name for path in cache.parent.iterdir()] == ["her2st"]
    ds.clear_cache()  # nothing there: no complaint
