import os
import subprocess
import sys

import numpy as np
import pytest

import deepspot as ds
from deepspot._features.cache import EmbeddingCache, embedding_cache

RNG = np.random.default_rng(0)
SPOT, SUBSPOTS = RNG.normal(size=(5, 7)).astype(np.float32), RNG.normal(size=(5, 9, 7)).astype(np.float32)
BYTES = 1_000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache" / "embeddings"


def fill(fingerprint, tmp_path, expected=BYTES):
    with embedding_cache(fingerprint, expected, tmp_path) as kept:
        (kept.folder / "block_000000.safetensors").write_bytes(b"x" * expected)
    return kept.folder


def test_round_trip_in_half_precision(tmp_path):
    kept = EmbeddingCache(tmp_path / "slide")
    kept.put(3, SPOT, SUBSPOTS)
    np.testing.assert_array_equal(kept.get(3, "spot", SPOT.shape), SPOT.astype(np.float16))
    np.testing.assert_array_equal(kept.get(3, "subspots", SUBSPOTS.shape), SUBSPOTS.astype(np.float16))
    assert kept.get(4, "spot", SPOT.shape) is None
    assert [path.name for path in kept.folder.iterdir()] == ["block_000003.safetensors"]


def test_damaged_files_are_ignored(tmp_path):
    kept = EmbeddingCache(tmp_path)
    kept.put(0, SPOT, None)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    assert kept.get(0, "spot", SPOT.shape) is None
    kept.put(0, SPOT, None)
    assert kept.get(0, "spot", SPOT.shape) is not None


@pytest.mark.parametrize("part", ["spot", "subspots"])
def test_a_flipped_bit_is_noticed(tmp_path, log, part):
    kept = EmbeddingCache(tmp_path)
    kept.put(0, SPOT, SUBSPOTS)
    path = next(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    spot_bytes = SPOT.size * 2
    content[-1 - (spot_bytes if part == "subspots" else 0)] ^= 0x10
    content[-1 - SUBSPOTS.size * 2] ^= 0x10
    path.write_bytes(content)
    assert kept.get(0, part, {"spot": SPOT, "subspots": SUBSPOTS}[part].shape) is None
    assert "embedded again" in log[-1]


def test_a_block_that_cannot_be_read_is_not_used(tmp_path):
    kept = EmbeddingCache(tmp_path / "cache", tmp_path / "spill")
    (kept.folder / "block_000000.safetensors").mkdir(parents=True)
    assert kept.get(0, "spot", SPOT.shape) is None
    kept.put(0, SPOT, None)
    assert kept.get(0, "spot", SPOT.shape) is not None


def test_another_shape_or_a_file_without_checksum_is_not_used(tmp_path):
    from safetensors.numpy import save_file

    kept = EmbeddingCache(tmp_path)
    kept.put(0, SPOT, None)
    assert kept.get(0, "spot", (5, 6)) is None
    save_file({"spot": SPOT.astype(np.float16)}, next(tmp_path.iterdir()))
    assert kept.get(0, "spot", SPOT.shape) is None


@pytest.mark.parametrize(("offset", "scale"), [(1000, 1), (1e5, 1), (0, 300), (0, 1e6)])
def test_full_precision_where_float16_is_too_coarse(tmp_path, offset, scale):
    kept, spot = EmbeddingCache(tmp_path), (SPOT * scale + offset).astype(np.float32)
    kept.put(0, spot, None)
    np.testing.assert_array_equal(kept.get(0, "spot", SPOT.shape), spot)


@pytest.mark.parametrize("text", ["", "12x"])
def test_an_unreadable_reservation_does_not_affect_other_slides(cache, tmp_path, text):
    (cache / "broken").mkdir(parents=True)
    (cache / "broken" / "bytes").write_text(text)
    fill("abc", tmp_path)
    ds.clear_cache()
    assert not cache.exists()


def test_a_full_disk_during_the_reservation(cache, tmp_path, monkeypatch, log):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with embedding_cache("abc", BYTES, tmp_path) as kept:
        kept.put(0, SPOT, None)
        assert kept.folder.parent == tmp_path
    assert any("No space left" in line for line in log)


def test_files_are_private(cache, tmp_path):
    with embedding_cache("abc", BYTES, tmp_path) as kept:
        kept.put(0, SPOT, None)
    assert kept.folder == cache / "abc"
    assert kept.folder.stat().st_mode & 0o077 == 0


def test_least_recently_used_slides_are_deleted(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "embeddings_gb", 2.5 * BYTES / 1e9)
    for age, name in enumerate(("b", "a"), start=1):
        os.utime(fill(name, tmp_path), (1e9 - age, 1e9 - age))
    fill("b", tmp_path)  # used again
    fill("c", tmp_path)
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == ["b", "c"]


@pytest.mark.parametrize("limit", [0, 0.5 * BYTES / 1e9])
def test_embeddings_are_temporary_if_disabled_or_too_large(cache, tmp_path, monkeypatch, limit, log):
    monkeypatch.setattr(ds.settings, "embeddings_gb", limit)
    with embedding_cache("abc", BYTES, tmp_path) as kept:
        kept.put(0, SPOT, None)
        assert kept.folder.parent == tmp_path
    assert not kept.folder.exists()
    assert not cache.exists()
    assert any("are not kept" in line for line in log) == (limit > 0)


def test_path_is_logged(cache, tmp_path, log):
    fill("abc", tmp_path)
    assert str(cache / "abc") in log[-1]
    assert "clear_cache" in log[-1]


def test_clear_cache_keeps_downloads(cache, tmp_path):
    fill("abc", tmp_path)
    (cache.parent / "her2st").mkdir()
    ds.clear_cache()
    assert sorted(path.name for path in cache.parent.iterdir()) == ["embeddings.lock", "her2st"]
    ds.clear_cache()  # no error for an empty cache


def test_reserved_space_of_other_processes_counts(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "embeddings_gb", 2.5 * BYTES / 1e9)
    names = ["a", "b", "c"]
    for age, name in enumerate(names):
        with embedding_cache(name, BYTES, tmp_path) as kept:  # nothing is written yet
            os.utime(kept.folder, (1e9 + age, 1e9 + age))
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == ["b", "c"]


def test_cache_that_is_cleared_while_in_use(cache, tmp_path):
    with embedding_cache("abc", BYTES, tmp_path) as kept:
        kept.put(0, SPOT, None)
        ds.clear_cache()
        assert kept.get(0, "spot", SPOT.shape) is None
        kept.put(0, SPOT, None)
        assert kept.get(0, "spot", SPOT.shape) is not None


def test_full_disk_of_the_cache(cache, tmp_path, monkeypatch, log):
    from deepspot._features import cache as _cache

    real = _cache._save

    def full(arrays, path):
        if path.parent == cache / "abc":
            raise OSError(28, "No space left on device")
        real(arrays, path)

    monkeypatch.setattr(_cache, "_save", full)
    with embedding_cache("abc", BYTES, tmp_path) as kept:
        kept.put(0, SPOT, SUBSPOTS)
        np.testing.assert_array_equal(kept.get(0, "subspots", SUBSPOTS.shape), SUBSPOTS.astype(np.float16))
    assert any("No space left" in line and "embeddings_gb" in line for line in log)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_full_disk_of_the_output_is_an_oserror(tmp_path, monkeypatch, full_disk):
    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    spot = RNG.normal(size=(100, 7))
    with embedding_cache("abc", BYTES, tmp_path) as kept, full_disk():
        with pytest.raises(OSError, match="File too large"):
            kept.put(0, spot, None)
        assert not list(kept.folder.iterdir())


def test_concurrent_processes(tmp_path):
    """Processes make room for their embeddings while others delete them."""
    code = f"""
import numpy as np, deepspot as ds
from pathlib import Path
from deepspot._features.cache import embedding_cache
ds.settings.cache_dir, ds.settings.embeddings_gb = {str(tmp_path / "cache")!r}, 3e-5
rng = np.random.default_rng()
for _ in range(60):
    with embedding_cache(f"slide_{{rng.integers(9)}}", 10_000, Path({str(tmp_path)!r})) as kept:
        kept.put(0, np.ones((10, 400)), None)
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    assert len([path for path in (tmp_path / "cache" / "embeddings").iterdir() if path.is_dir()]) <= 4
