import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import deepspot as ds
from deepspot._sdata.write import make_table
from deepspot.cohort._patients.pseudobulk import profile

GENES = ["A", "B", "C", "D"]


def add(sdata, X, genes=GENES, key="deepspot_spots", ood=None, **made):
    index = sdata.shapes["spots"].index
    obs = pd.DataFrame({} if ood is None else {"ood": ood}, index=index.astype(str))
    made = {"kind": "prediction", "scale": "log1p of counts per 10,000", "model": "m", "fingerprint": "f"} | made
    sdata.tables[key] = make_table(
        np.asarray(X, dtype=np.float32),
        region="spots",
        instances=index,
        region_key="region",
        instance_key="spot_id",
        obs=obs,
        var=pd.DataFrame({"expected_r": np.float32(0.1)}, index=genes),
        uns={"log1p": {}, "deepspot": made},
    )


@pytest.fixture
def predicted(slides):
    rng = np.random.default_rng(0)
    for number, sdata in enumerate(slides.values()):
        X = rng.standard_normal((30, 4)) + number
        add(sdata, X, ood=np.arange(30) < 3 * (number + 1))
        sdata.attrs["X"] = X.astype(np.float32)
    return slides


@pytest.mark.parametrize("how", ["mean", "median"])
def test_profiles_of_slides(predicted, how, log):
    profiles = ds.cohort.pseudobulk(predicted, how=how)
    expected = [getattr(np, how)(np.maximum(sdata.attrs["X"], 0), axis=0) for sdata in predicted.values()]
    np.testing.assert_allclose(profiles.X, expected, rtol=1e-6)
    assert profiles.X.dtype == np.float32
    assert list(profiles.obs_names) == list(profiles.obs["slide"]) == ["P1_S1", "P2_S1"]
    assert list(profiles.obs["spots"]) == [30, 30]
    np.testing.assert_allclose(profiles.obs["ood_share"], [0.1, 0.2])
    assert list(profiles.var_names) == GENES
    assert list(profiles.var.columns) == ["expected_r"]
    assert profiles.uns["deepspot"] == {
        "kind": "pseudobulk",
        "how": how,
        "scale": "log1p of counts per 10,000",
        "model": "m",
        "fingerprint": "f",
    }
    assert "log1p" in profiles.uns
    assert log[-1] == f"Made 2 profiles of 4 genes: the {how} over the spots of 2 slides."


def test_profiles_can_be_written(predicted, tmp_path):
    import anndata

    profiles = ds.cohort.pseudobulk(predicted)
    profiles.write_h5ad(tmp_path / "profiles.h5ad")
    again = anndata.read_h5ad(tmp_path / "profiles.h5ad")
    np.testing.assert_array_equal(again.X, profiles.X)
    assert again.uns["deepspot"]["kind"] == "pseudobulk"


@pytest.mark.parametrize("how", ["mean", "median"])
def test_regions_and_tables_on_disk(predicted, how):
    table = predicted["P1_S1"]["deepspot_spots"]
    predicted["P1_S1"].shapes["spots"]["annotation"] = ["tumor"] * 10 + ["other"] * 15 + [None] * 5
    predicted["P2_S1"].shapes["spots"]["annotation"] = ["tumor"] * 30
    in_memory = ds.cohort.pseudobulk(predicted, how=how, groupby="annotation")
    assert list(in_memory.obs_names) == ["P1_S1: other", "P1_S1: tumor", "P2_S1: tumor"]
    assert list(in_memory.obs["region"]) == ["other", "tumor", "tumor"]
    assert list(in_memory.obs["spots"]) == [15, 10, 30]
    assert in_memory.uns["deepspot"]["groupby"] == "annotation"
    np.testing.assert_allclose(in_memory.obs["ood_share"], [0, 0.3, 0.2])
    X = np.maximum(predicted["P1_S1"].attrs["X"][:10], 0)
    np.testing.assert_allclose(in_memory.X[1], getattr(np, how)(X, axis=0), rtol=1e-6)
    table.X = da.from_array(np.asarray(table.X), chunks=(7, 3))
    np.testing.assert_allclose(ds.cohort.pseudobulk(predicted, how=how, groupby="annotation").X, in_memory.X, rtol=1e-6)


@pytest.mark.parametrize("how", ["mean", "median"])
def test_slides_that_were_predicted_to_disk(slide, quick_model, cheap_encoder, how, tmp_path):
    ds.tl.predict(slide, quick_model, encoder=cheap_encoder, out=tmp_path / "slide.zarr")
    opened = ds.io.predicted(tmp_path / "slide.zarr")
    assert isinstance(opened["deepspot_spots"].X, da.Array)
    profiles = ds.cohort.pseudobulk({"P1": opened}, how=how)
    X = opened["deepspot_spots"].X.compute()
    np.testing.assert_allclose(profiles.X[0], getattr(np, how)(X, axis=0), rtol=1e-5)
    assert isinstance(opened["deepspot_spots"].X, da.Array)
    assert profiles.obs["ood_share"].iloc[0] == pytest.approx(opened["deepspot_spots"].obs["ood"].mean())
    assert profiles.uns["deepspot"]["fingerprint"] == quick_model.fingerprint
    assert list(profiles.var_names) == quick_model.card.genes


def test_measured_slides(slides):
    import scanpy as sc

    for sdata in slides.values():
        sc.pp.normalize_total(sdata["table"], target_sum=1e4)
        sc.pp.log1p(sdata["table"])
    profiles = ds.cohort.pseudobulk(slides, table_key="table")
    np.testing.assert_allclose(profiles.X[1], slides["P2_S1"]["table"].X.toarray().mean(axis=0), rtol=1e-5)
    assert profiles.obs["ood_share"].isna().all()
    assert profiles.var.empty or not len(profiles.var.columns)
    assert "fingerprint" not in profiles.uns["deepspot"]


def test_names_of_slides(predicted):
    first, second = predicted.values()
    assert list(ds.cohort.pseudobulk(first).obs_names) == ["slide"]
    assert list(ds.cohort.pseudobulk([first, second]).obs_names) == ["slide_1", "slide_2"]
    for sdata, name in ((first, "TCGA-1"), (second, "TCGA-2")):
        sdata.attrs["deepspot_slide"] = {"name": name}
    assert list(ds.cohort.pseudobulk([first, second]).obs_names) == ["TCGA-1", "TCGA-2"]


def test_shared_genes_are_kept(predicted, log):
    first, second = predicted.values()
    add(second, second.attrs["X"][:, [2, 0, 1]], genes=["C", "A", "B"], key="other")
    del second.tables["deepspot_spots"]
    profiles = ds.cohort.pseudobulk(predicted)
    assert list(profiles.var_names) == ["A", "B", "C"]
    np.testing.assert_allclose(profiles.X[1], np.maximum(second.attrs["X"][:, :3], 0).mean(axis=0), rtol=1e-5)
    assert "Slides differ in their genes: the 3 that all slides have are kept." in log
    assert first["deepspot_spots"].n_vars == 4


def test_other_gene_identifiers_are_refused(predicted):
    _, second = predicted.values()
    del second.tables["deepspot_spots"]
    add(second, second.attrs["X"], genes=["ENSG1", "ENSG2", "ENSG3", "D"])
    with pytest.raises(ValueError, match=r"share 1 genes, under half of the 4 of slide 'P1_S1'.*'ENSG1'.*identifiers"):
        ds.cohort.pseudobulk(predicted)


def test_slides_of_different_models_are_refused(predicted):
    predicted["P2_S1"]["deepspot_spots"].uns["deepspot"]["fingerprint"] = "g"
    with pytest.raises(
        ValueError, match=r"'P1_S1' and 'P2_S1' were predicted by different models.*'f' and 'g'.*Predict all slides"
    ):
        ds.cohort.pseudobulk(predicted)


def test_scales(slides, predicted):
    with pytest.raises(ValueError, match=r"Table 'table' of slide 'P1_S1' holds whole numbers.*sc\.pp\.log1p"):
        ds.cohort.pseudobulk(slides, table_key="table")
    slides["P1_S1"]["table"].X = slides["P1_S1"]["table"].X * 0.5
    with pytest.raises(ValueError, match=r"on an unknown scale.*uns\['log1p'\] = \{\}"):
        ds.cohort.pseudobulk(slides, table_key="table")
    predicted["P1_S1"]["deepspot_spots"].uns["deepspot"]["scale"] = "counts"
    with pytest.raises(ValueError, match=r"on the scale 'counts'. Profiles need one of .*'log1p of counts per 10,000'"):
        ds.cohort.pseudobulk(predicted)


def test_options_are_checked(predicted):
    with pytest.raises(ValueError, match=r"`how` must be one of \['mean', 'median'\], got 'max'"):
        ds.cohort.pseudobulk(predicted, how="max")
    with pytest.raises(KeyError, match=r"Key `'grade'` not found in `obs of table 'deepspot_spots'`"):
        ds.cohort.pseudobulk(predicted, groupby="grade")
    predicted["P2_S1"].shapes["spots"]["annotation"] = pd.Categorical([None] * 30, categories=["a"])
    predicted["P1_S1"].shapes["spots"]["annotation"] = "a"
    with pytest.raises(ValueError, match=r"No spot of slide 'P2_S1' has a region in 'annotation'"):
        ds.cohort.pseudobulk(predicted, groupby="annotation")
    with pytest.raises(ValueError, match="is empty"):
        ds.cohort.pseudobulk([])


KINDS = {
    "numpy": np.asarray,
    "sparse": csr_matrix,
    "dask": lambda X: da.from_array(X, chunks=(700, 13)),
    "odd chunks": lambda X: da.from_array(X, chunks=((1, 1999), (40,))),
}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).standard_normal((2000, 40)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["mean", "median"])
@pytest.mark.parametrize("some", [False, True])
def test_blocks_and_whole_array_agree(X, kind, how, some):
    rows = (np.arange(2000) % 3 == 0) if some else None
    chosen = np.maximum(X if rows is None else X[rows], 0).astype(np.float64)
    found = profile(KINDS[kind](X), how, rows)
    assert found.dtype == np.float32
    assert found.shape == (40,)
    np.testing.assert_allclose(found, getattr(np, how)(chosen, axis=0), rtol=1e-6, atol=1e-7)


def test_a_mean_reads_each_chunk_once(X):
    read = []
    lazy = da.from_array(X, chunks=(500, 20)).map_blocks(lambda block: read.append(block.shape) or block, meta=X[:0])
    profile(lazy, "mean")
    assert sorted(shape for shape in read if shape[0]) == [(500, 20)] * 8


def test_blocks_without_chosen_spots_are_not_read(X):
    def fail(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] > 0:
            raise OSError("was read")
        return block

    lazy = da.from_array(X, chunks=(500, 40)).map_blocks(fail, dtype=X.dtype)
    found = profile(lazy, "mean", np.arange(2000) < 100)
    np.testing.assert_allclose(found, np.maximum(X[:100], 0).mean(axis=0), rtol=1e-5)
    with pytest.raises(OSError, match="was read"):
        profile(lazy, "mean")


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_missing_gene_is_nan(X, how):
    lacks = X.copy()
    lacks[3, 7] = np.nan
    assert list(np.flatnonzero(np.isnan(profile(lacks, how)))) == [7]
