"""Read a slide, predict it with the embedded model, and continue in scanpy."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from spatialdata import read_zarr

import deepspot as ds


# zarr has no specification for the record arrays of scanpy's ranked genes.
@pytest.mark.filterwarnings("ignore:The data type")
def test_from_a_table_and_an_image_to_ranked_genes_on_disk(all_slides, log, tmp_path):
    measured = all_slides["P1_S1"]["table"][:24].copy()
    for column in ("region", "spot_id"):
        measured.obs.pop(column)
    measured.uns = {}
    image = all_slides["P1_S1"]["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    sdata = ds.io.from_anndata(measured, image, mpp=1.0, diameter_um=55)

    ds.tl.predict(sdata)
    table = sdata.tables["deepspot_spots"]
    assert table.shape == (24, 1000)
    assert table.X.min() >= 0
    assert np.isfinite(table.X).all()
    assert any("HER2-positive breast cancer of two patients" in message for message in log)

    sc.pp.pca(table, n_comps=5)
    sc.pp.neighbors(table, n_neighbors=8)
    table.obs["half"] = pd.Categorical(np.where(np.arange(24) < 12, "top", "bottom"))
    sc.tl.rank_genes_groups(table, "half", method="wilcoxon")
    assert set(sc.get.rank_genes_groups_df(table, group="top")["names"]) == set(table.var_names)

    sdata.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr").tables["deepspot_spots"]
    np.testing.assert_array_equal(again.X, table.X)
    assert again.uns["deepspot"]["kind"] == "prediction"
    assert list(again.var_names) == list(table.var_names)
