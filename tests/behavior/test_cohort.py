"""From a manifest of slides to profiles, and their agreement with bulk RNA."""

import numpy as np
import pandas as pd
import tifffile
from anndata import AnnData, read_h5ad
from spatialdata import read_zarr

import deepspot as ds


def test_from_a_manifest_to_the_agreement_with_bulk(all_slides, model, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    names = ["P1_S1", "P2_S1"]
    for name in names:
        image = np.ascontiguousarray(all_slides[name][f"{name}_image"].to_numpy().transpose(1, 2, 0))
        scale = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}  # 1 µm per pixel
        tifffile.imwrite(tmp_path / f"{name}.tiff", image, tile=(256, 256), photometric="rgb", metadata=None, **scale)
    manifest = pd.DataFrame({"path": [str(tmp_path / f"{name}.tiff") for name in names], "patient": ["P1", "P2"]})
    manifest.to_csv(tmp_path / "manifest.csv", index=False)

    runs = ds.cohort.run(tmp_path / "manifest.csv", model, tmp_path / "out", encoder=encoder)
    assert list(runs.index) == names
    assert list(runs["status"]) == ["done", "done"]
    again = ds.cohort.run(tmp_path / "manifest.csv", model, tmp_path / "out", encoder=encoder)
    assert again["seconds"].equals(runs["seconds"])  # finished slides were skipped

    profiles = read_h5ad(tmp_path / "out" / "pseudobulk.h5ad")
    assert profiles.shape == (2, 40)
    stores = {name: read_zarr(tmp_path / "out" / "slides" / f"{name}.zarr") for name in names}
    by_hand = ds.cohort.pseudobulk(stores)
    np.testing.assert_allclose(by_hand.to_df(), profiles.to_df().loc[by_hand.obs_names, by_hand.var_names], rtol=1e-4)


def test_profiles_agree_with_their_own_bulk():
    rng = np.random.default_rng(0)
    bulk = rng.normal(size=(30, 20))
    obs = pd.DataFrame({"patient": [f"P{i}" for i in range(30)], "preservation": "FFPE"})
    obs.index = [f"slide {i}" for i in range(30)]
    profiles = AnnData(
        bulk + rng.normal(size=bulk.shape), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(20)])
    )
    frame = pd.DataFrame(bulk, index=list(obs["patient"]), columns=profiles.var_names)
    bulk = AnnData(frame, obs=frame[[]].assign(patient=frame.index))
    result = ds.cohort.bulk_agreement(profiles, bulk, match="patient")
    assert len(result.matched) == 30
    assert result.table["r"].mean() > 0.5
    assert ds.pl.bulk_agreement(result).get_xlabel()
