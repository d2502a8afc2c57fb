"""Slides that one line of anndata and pandas wrote are used on the other.

The files were written by stacks/write.py with anndata 0.12.19, pandas 2.3.3 and zarr 3.1.6, and with anndata 0.13.4,
pandas 3.1.1 and zarr 3.4.2. Text of the second is read as nullable strings by the first.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad
from geopandas import read_file
from spatialdata import read_zarr

import deepspot as ds

FILES = sorted((Path(__file__).parent / "stacks").glob("*.zip"))


@pytest.fixture(params=[*FILES, "nullable"], ids=lambda file: Path(file).stem)
def stored(request, tmp_path):
    shutil.unpack_archive(FILES[0] if request.param == "nullable" else request.param, tmp_path)
    sdata = read_zarr(tmp_path / "slide.zarr")
    for key in ("table", "deepspot_spots") if request.param == "nullable" else ():
        table = sdata[key]
        table.obs_names, table.var_names = (names.astype("string") for names in (table.obs_names, table.var_names))
        table.obs["text"] = table.obs["text"].astype("string")
        table.obs["categories"] = pd.Categorical(table.obs["categories"].astype("string"))
        table.obs["region"] = pd.Categorical(table.obs["region"].astype("string"))
    return sdata


def test_results_are_read(stored):
    predicted = stored["deepspot_spots"]
    assert len(predicted.uns["markers"]) == 40
    assert set(predicted.uns["enrichment"]["term"]) <= {"first", "A/B"}
    assert list(predicted.obsm["score_mlm"]) == ["JAK_STAT", "TGFb"]
    ds.tl.enrich(stored, {"set": list(predicted.var_names[:9])}, key_added="again")
    ds.pl.markers(stored)
    ds.pl.enrichment(stored)
    ds.pl.pathways(stored, pathways="JAK/STAT")
    ds.pl.umap(stored, color="text", n_images=4)
    ds.tl.evaluate(stored)


def test_results_leave_the_package(stored, tmp_path):
    for name in ("a.geojson", "a.csv", "a.parquet", "a.h5ad", "a.h5"):
        ds.io.export(stored, tmp_path / name, table_key="deepspot_spots")
    n, genes = stored["deepspot_spots"].shape
    assert read_h5ad(tmp_path / "a.h5ad").shape == (n, genes)
    assert len(read_file(tmp_path / "a.geojson")) == n
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table["text"].astype(str)) == list(pd.read_csv(tmp_path / "a.csv")["text"].astype(str))


@pytest.mark.parametrize("groupby", ["text", "categories", "of_shapes", "numbers"])
def test_groups_of_any_text(stored, groupby):
    predicted = stored["deepspot_spots"]
    ds.tl.markers(stored, groupby, test="blocks", n_permutations=20, key_added="found")
    found, before = predicted.uns["found"], predicted.uns["markers"]
    names = {"1": "T/NK", "2": "tumor"} if groupby == "numbers" else {}
    same = found.assign(group=found["group"].astype(str).replace(names)).set_index(["group", "gene"])
    order = [(str(group), str(gene)) for group, gene in zip(before["group"], before["gene"], strict=True)]
    np.testing.assert_allclose(same.loc[order, "p"], before["p"], rtol=1e-6)
    ds.tl.enrich(stored, {"set": list(predicted.var_names[:9])}, markers_key="found", key_added="again")
    ds.pl.regions(stored, predicted.var_names[0], groupby=groupby)
    profiles = ds.cohort.pseudobulk({"a": stored}, groupby=groupby)
    assert len(profiles) == 2


def test_a_model_is_trained_and_its_prediction_corrected_and_saved(stored, quick, tmp_path):
    for key in ("deepspot_spots", "three_spots"):
        del stored.tables[key]
    model = ds.models.train({"a": stored}, **quick)
    assert [(slide.slide, slide.patient) for slide in model.card.slides] == [("a", "P1")]
    ds.tl.predict(stored, model, encoder=quick["encoder"])
    ds.tl.correct(stored, model, encoder=quick["encoder"])
    ds.tl.evaluate(stored)
    net = pd.DataFrame({"source": "a", "target": model.card.genes, "weight": np.arange(10.0)})
    ds.tl.pathways(stored, net, table_key="deepspot_spots")
    del stored.tables["table"]  # anndata 0.12 does not write text that it read from 0.13
    stored.write(tmp_path / "again.zarr")
    assert set(read_zarr(tmp_path / "again.zarr").tables) >= {"deepspot_spots", "table_corrected"}
