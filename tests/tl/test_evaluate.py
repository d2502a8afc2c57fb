from copy import copy

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from spatialdata import read_zarr

import deepspot as ds
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_table, make_table
from deepspot._stats.normalize import normalize
from deepspot.tl._evaluate import COLUMNS, evaluate
from deepspot.tl._predict.table import learned_from


def add_prediction(sdata, X, genes, key="deepspot_spots", rows=slice(None), **uns):
    measured = sdata.tables["table"]
    attrs = measured.uns["spatialdata_attrs"]
    made = make_table(
        np.asarray(X, dtype=np.float32)[rows],
        region="spots",
        instances=pd.Index(sdata.shapes["spots"].index[rows]),
        region_key=attrs["region_key"],
        instance_key=attrs["instance_key"],
        var=pd.DataFrame(index=pd.Index(genes)),
        obsm={"spatial": np.asarray(measured.obsm["spatial"])[rows]},
        uns={"deepspot": {"kind": "prediction"} | uns},
    )
    add_table(sdata, key, made, what="predicted genes")
    return sdata.tables[key]


@pytest.fixture
def truth(slide):
    return normalize(slide.tables["table"].X.tocsr()).toarray()


@pytest.fixture
def genes(slide):
    return list(slide.tables["table"].var_names)


@pytest.fixture
def predicted(slide, truth, genes):
    """Half as high as measured: perfectly correlated, but wrong."""
    return add_prediction(slide, truth / 2, genes)


def test_what_it_sets(slide, predicted, truth, tmp_path, log):
    evaluate(slide)
    var = predicted.var
    assert list(var.columns) == list(COLUMNS)
    varying = truth.std(axis=0) > 0
    np.testing.assert_allclose(var.loc[varying, ["pearson", "spearman"]], 1, atol=1e-5)
    assert var.loc[~varying, ["pearson", "spearman", "lee"]].isna().all(axis=None)
    np.testing.assert_allclose(var["rmse"], np.sqrt((truth**2).mean(axis=0)) / 2, rtol=1e-5)
    np.testing.assert_allclose(var["measured_detected"], (truth > 0).mean(axis=0))
    assert var["lee"].dropna().between(0, 1).all()
    # Half as high is as smooth.
    np.testing.assert_allclose(var["moran_predicted"], var["moran_measured"], atol=1e-5)
    np.testing.assert_allclose(var.loc[varying, "pearson_beyond_axis"], 1, atol=1e-5)
    counts = slide.tables["table"].X
    depth = np.log(np.asarray(counts.sum(axis=1)).ravel())
    by_depth = [np.corrcoef(depth, gene)[0, 1] for gene in truth[:, varying].T]
    np.testing.assert_allclose(var.loc[varying, "pearson_depth"], by_depth, atol=1e-5)
    assert var["pearson_ceiling"].dropna().between(0, 1, inclusive="right").all()
    means = predicted.uns["deepspot"]["agreement"]
    assert means["r"] == means["r_beyond_axis"] == means["gene_agreement"] == pytest.approx(1)
    assert means["r_depth"] == pytest.approx(np.mean(by_depth))
    assert means["patterns_predicted"] == pytest.approx(means["patterns_measured"])
    assert log[-1] == (
        f"Added agreement with 'table' over 30 spots (mean r 1.000 over {varying.sum()} genes; beyond their first axis "
        f"1.000; of the depth of spots alone {np.mean(by_depth):.3f}) to var of sdata.tables['deepspot_spots']."
    )
    # Half as high: differences are half as large as measured.
    np.testing.assert_allclose(var.loc[varying, "slope"], 2, rtol=1e-5)
    np.testing.assert_allclose(var["mae"], truth.mean(axis=0) / 2, rtol=1e-5)
    assert (var.loc[varying, "ssim"] > var.loc[varying, "ssim_of_mean"]).mean() > 0.5
    assert means["slope"] == pytest.approx(2)
    assert means["r_all"] == pytest.approx(1)
    assert means["r_all_means"] == pytest.approx(means["r_all_of_means"] ** 2)
    slide.write(tmp_path / "a.zarr")
    read = read_zarr(tmp_path / "a.zarr")["deepspot_spots"]
    pd.testing.assert_frame_equal(read.var, var)
    assert read.uns["deepspot"]["agreement"] == means


def test_a_prediction_of_gene_means_is_exposed(slide, truth, genes):
    """It knows nothing of the tissue, and its correlation over all values is high."""
    noise = 1e-3 * np.random.default_rng(0).normal(size=truth.shape)
    table = add_prediction(slide, truth.mean(axis=0) + noise + 1, genes)
    evaluate(slide)
    means = table.uns["deepspot"]["agreement"]
    assert means["r_all"] > 0.6
    assert means["r_all"] == pytest.approx(means["r_all_of_means"], abs=0.01)
    assert means["r_all_pattern"] == pytest.approx(0, abs=0.01)
    assert abs(means["r"]) < 0.1
    # Without noise there is no r of genes at all, and it is as similar as the mean is.
    table.X = np.tile(truth.mean(axis=0), (len(truth), 1)).astype(np.float32)
    evaluate(slide, overwrite=True)
    assert table.var["pearson"].isna().all()
    assert table.uns["deepspot"]["agreement"]["r_all_pattern"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(table.var["ssim"], table.var["ssim_of_mean"], atol=1e-5)


def test_gene_sets(slide, predicted, genes, tmp_path, log):
    file = tmp_path / "sets.gmt"
    file.write_text("\t".join(["FIRST", "", *genes[:12], "UNKNOWN"]) + "\nNONE\t\tUNKNOWN\n")
    evaluate(slide, gene_sets=file)
    found = predicted.uns["deepspot_gene_sets"]
    assert found["gene_set"].tolist() == ["FIRST"]
    assert found["r"][0] == found["r_random"][0] == pytest.approx(1)  # half as high as measured in all genes
    assert found["p"][0] == 1
    assert any("1 of 2 gene sets (sets.gmt) have no such gene and are left out" in line for line in log)
    with pytest.raises(ValueError, match=r"has \['deepspot_gene_sets'\] already|has \['pearson'"):
        evaluate(slide, gene_sets=file)
    with pytest.raises(ValueError, match=r"No gene set \(dict\) has a gene that was predicted and measured.*\['x'\]"):
        evaluate(slide, gene_sets={"a": ["x"]}, overwrite=True)
    slide.write(tmp_path / "a.zarr")
    pd.testing.assert_frame_equal(read_zarr(tmp_path / "a.zarr")["deepspot_spots"].uns["deepspot_gene_sets"], found)


def test_domains(slide, truth, genes, tmp_path):
    pytest.importorskip("igraph")
    rows = np.arange(2, 30)
    table = add_prediction(slide, truth / 2, genes)
    slide.tables["table"] = slide.tables["table"][rows].copy()
    evaluate(slide, domains=True, seed=0)
    found = table.uns["deepspot"]["agreement"]
    assert found["ari"] == 1  # the same data up to a factor
    assert found["ari_shifted"] < 0.5
    assert found["ari_p"] < 0.1
    labels = table.obs[["domain_predicted", "domain_measured"]]
    assert labels[:2].isna().all(axis=None)
    assert (labels["domain_predicted"][2:].astype(str) == labels["domain_measured"][2:].astype(str)).all()
    with pytest.raises(ValueError, match="already"):
        evaluate(slide, domains=True)
    slide.write(tmp_path / "a.zarr")


def test_coverage_of_intervals(slide, truth, genes):
    table = add_prediction(slide, truth, genes)
    table.layers["lower"], table.layers["upper"] = truth - 0.1, truth + 0.1
    table.layers["upper"][:15] = table.layers["lower"][:15]
    evaluate(slide)
    np.testing.assert_allclose(table.var["coverage"], 0.5)


def test_spots_are_matched_by_instance_and_genes_by_name(slide, truth, genes):
    rng = np.random.default_rng(0)
    spots, columns = rng.permutation(30)[:20], rng.permutation(len(genes))[:25]
    table = add_prediction(slide, truth[:, columns], [genes[i] for i in columns], rows=spots)
    slide.tables["table"] = slide.tables["table"][rng.permutation(30)].copy()
    evaluate(slide)
    np.testing.assert_allclose(table.var["rmse"], 0, atol=1e-6)


def test_genes_that_were_not_measured(slide, truth, genes):
    table = add_prediction(slide, np.hstack([truth, truth[:, :5]]), [*genes, *(f"NEW{i}" for i in range(5))])
    evaluate(slide)
    assert table.var.iloc[-5:].isna().all(axis=None)
    assert table.var["rmse"].iloc[:-5].notna().all()


def test_under_half_of_the_genes_shared(slide, truth, genes):
    table = add_prediction(slide, truth, [f"mouse_{gene}" for gene in genes])
    with pytest.raises(ValueError, match="measures 0 of the 60 genes to compare, under half"):
        evaluate(slide)
    assert table.var.empty


def test_existing_columns_are_kept_without_overwrite(slide, predicted):
    evaluate(slide)
    before = predicted.var.copy()
    predicted.X = -predicted.X
    with pytest.raises(ValueError, match=r"has \['pearson', .*\] already. Pass `overwrite=True`"):
        evaluate(slide)
    pd.testing.assert_frame_equal(predicted.var, before)
    with pytest.raises(KeyError, match="'tabel'"):  # the wrong name, not the columns of before
        evaluate(slide, table_key="tabel")
    evaluate(slide, overwrite=True)
    np.testing.assert_allclose(predicted.var["pearson"], -before["pearson"], atol=1e-6)


def test_spots_without_counts_are_left_out(slide, predicted, log):
    table = slide.tables["table"]
    counts = table.X.tolil()
    counts[:4] = 0
    table.X = counts.tocsr()
    evaluate(slide)
    assert "over 26 spots" in log[-1]
    assert "Table 'table': 4 spots without counts are left out." in log
    np.testing.assert_allclose(predicted.var["pearson"].dropna(), 1, atol=1e-5)


def test_a_table_without_counts(slide, predicted):
    slide.tables["table"].X = slide.tables["table"].X * 0
    with pytest.raises(ValueError, match="Table 'table' has no spot with counts"):
        evaluate(slide)
    assert predicted.var.empty


def test_a_layer_with_counts(slide, predicted):
    table = slide.tables["table"]
    table.layers["counts"] = table.X.copy()
    table.X = normalize(table.X.tocsr())
    with pytest.raises(ValueError, match="does not contain raw counts"):
        evaluate(slide)
    assert predicted.var.empty
    evaluate(slide, layer="counts")
    np.testing.assert_allclose(predicted.var["pearson"].dropna(), 1, atol=1e-5)


def test_which_prediction(slide, truth, genes):
    with pytest.raises(KeyError, match="`prediction_key` cannot be chosen"):
        evaluate(slide)
    one = add_prediction(slide, truth, genes, key="one")
    add_prediction(slide, truth, genes, key="two")
    with pytest.raises(ValueError, match=r"several candidates: \['one', 'two'\]. Choose one with `prediction_key=`"):
        evaluate(slide)
    with pytest.raises(KeyError, match="'table'` not found"):
        evaluate(slide, prediction_key="table")
    with pytest.raises(KeyError, match="'cells'` not found in"):
        evaluate(slide, shapes_key="cells")
    evaluate(slide, prediction_key="one", shapes_key="spots", table_key="table")
    assert one.var["pearson"].notna().any()


def test_normalized_counts_are_refused(slide, predicted):
    slide["table"].X = slide["table"].X * 0.5
    with pytest.raises(ValueError, match=r"^X of table 'table' does not contain raw counts"):
        evaluate(slide)


def test_too_few_spots(slide, truth, genes):
    add_prediction(slide, truth, genes, rows=[0, 5])
    with pytest.raises(ValueError, match="share 2 spots of 'spots' with counts; at least 3 are needed"):
        evaluate(slide)


def test_warns_if_the_normalization_differs(slide, truth, genes, log):
    add_prediction(slide, truth, genes, depth="the 900 genes that all training slides share")
    evaluate(slide)
    assert log[-2].startswith(
        "The model was trained on counts normalized over the 900 genes that all training slides share, the"
    )


def test_a_real_prediction(slide, quick_model, cheap_encoder):
    ds.tl.predict(slide, quick_model, encoder=cheap_encoder)
    evaluate(slide)
    assert set(COLUMNS) <= set(slide.tables["deepspot_spots"].var)


def test_a_training_slide_is_recognized(slides, quick_model, cheap_encoder, log):
    """Also a part of it, in another order, with fewer genes."""
    seen = slides["P1_S1"]
    new = ds.datasets.toy(1, 1, n_rows=5, n_cols=6, seed=7)["P1_S1"]
    for sdata in (seen, new):
        ds.tl.predict(sdata, quick_model, encoder=cheap_encoder)
        sdata["deepspot_spots"].uns["deepspot"]["training_slide"] = "unknown"  # by its counts alone
        genes = [*quick_model.card.genes[::-1], *sdata["table"].var_names.drop(quick_model.card.genes)[:5]]
        sdata.tables["table"] = sdata["table"][10:][::-1, genes].copy()
        log.clear()
        evaluate(sdata)
        assert any("learned from this slide:" in line for line in log) == (sdata is seen)


def test_bundles_without_hashes_are_evaluated(slide, quick_model, cheap_encoder, log):
    old = [part.model_copy(update={"hashes": [], "image": ""}) for part in quick_model.card.slides]
    quick = copy(quick_model)
    quick.card = quick_model.card.model_copy(update={"slides": old})
    ds.tl.predict(slide, quick, encoder=cheap_encoder)
    evaluate(slide)
    assert any("Whether the model learned from this slide is unknown" in line for line in log)
    assert slide["deepspot_spots"].uns["deepspot"]["training_slide"] == "unknown"


@pytest.mark.parametrize("tool", ["evaluate", "correct", "check_alignment"])
def test_a_training_slide_is_recognized_by_its_image_if_counts_are_thinned(
    tool, slides, quick_model, cheap_encoder, log
):
    new = ds.datasets.toy(1, 1, n_rows=5, n_cols=6, seed=7)["P1_S1"]
    for sdata, learned in ((slides["P1_S1"], "yes"), (new, "no")):
        thinned = np.random.default_rng(0).binomial(sdata["table"].X.toarray(), 0.5)
        sdata["table"].X = thinned.astype(float)
        ds.tl.predict(sdata, quick_model, encoder=cheap_encoder)
        assert sdata["deepspot_spots"].uns["deepspot"]["training_slide"] == learned
        log.clear()
        if tool == "evaluate":
            evaluate(sdata)
        elif tool == "correct":
            ds.tl.correct(sdata, quick_model, check_registration=False)
            assert sdata["table_corrected"].uns["deepspot"]["training_slide"] == learned
        else:
            ds.tl.check_alignment(sdata, prediction_key="deepspot_spots")
        assert any("The model learned from this slide" in line for line in log) == (learned == "yes")


@pytest.mark.parametrize(("name", "learned"), [("C5", "yes"), ("P1_S1", "no")])
def test_the_embedded_model_knows_its_training_slides(data, name, learned, toy):
    """By their image, and by counts alone."""
    sdata = ds.datasets.her2st(name) if learned == "yes" else toy[name]
    model = ds.models.load()
    view = SlideView.select(sdata, None, None)
    found = model.card.learned_from(model.features_of(view).image_hash)
    assert found == learned
    uns = {"training_spots": " ".join(str(value) for slide in model.card.slides for value in slide.hashes)}
    prediction = AnnData(var=pd.DataFrame(index=model.card.genes), uns={"deepspot": uns})
    assert learned_from(prediction, view.measured(view.measured_key())) == learned
