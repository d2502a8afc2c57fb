"""Stream a prediction to disk, and read parts of it."""

import numpy as np
import pytest

import deepspot as ds


def test_streamed_and_read_in_part(slides, predicted, model, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    slide = slides["P3_S1"]
    genes = model.card.genes[:3]
    ds.tl.predict(slide, model, encoder=encoder, out=tmp_path / "slide.zarr")
    known = predicted["deepspot_spots"]

    everything = ds.io.predicted(tmp_path / "slide.zarr")["deepspot_spots"]
    # On disk, spots are in the order in which the image is read.
    order = everything.obs["spot_id"].to_numpy()
    rows = known.obs.reset_index(drop=True).set_index("spot_id").index.get_indexer(order)
    assert sorted(rows) == list(range(42))
    np.testing.assert_allclose(np.asarray(everything.X), np.asarray(known.X)[rows], rtol=1e-4, atol=1e-4)
    some = ds.io.predicted(tmp_path / "slide.zarr", genes=genes)["deepspot_spots"]
    assert list(some.var_names) == genes
    np.testing.assert_array_equal(some.X, np.asarray(everything[:, genes].X))

    kept = tmp_path / "cache" / "embeddings"
    assert any(kept.rglob("*"))
    ds.clear_cache()
    assert not kept.exists()
    assert ds.io.predicted(tmp_path / "slide.zarr", genes=genes[0])["deepspot_spots"].n_vars == 1


def test_an_existing_store_is_kept(slides, model, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    out = tmp_path / "slide.zarr"
    ds.tl.predict(slides["P3_S1"], model, encoder=encoder, out=out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises((ValueError, FileExistsError), match=r"slide\.zarr"):
        ds.tl.predict(slides["P2_S1"], model, encoder=encoder, out=out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
