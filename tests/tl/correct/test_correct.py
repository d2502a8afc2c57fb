"""Denoising and replacing measured genes."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from spatialdata import read_zarr

import deepspot as ds
from deepspot._sdata.view import SlideView
from deepspot._stats.gamma_poisson import posterior
from deepspot.tl._correct.table import corrected_table

pytestmark = pytest.mark.slow  # the fixture `pair` embeds two slides and trains


@pytest.fixture(scope="module")
def pair():
    """A model of one synthetic slide, and another one with its prediction. Without sub-spots a spot is one tile."""
    slides = ds.datasets.toy(2, 1, n_rows=9, n_cols=10, stain_shift=0.1, n_genes=60)
    network = {"members": 1, "width": 16, "context": ("spot", "neighbors")}
    model = ds.models.train(slides["P1_S1"], genes=40, network=network, training={"epochs": 3}, seed=0)
    ds.tl.predict(slides["P2_S1"], model)
    return slides["P2_S1"], model


@pytest.fixture
def slide(pair):
    from spatialdata import deepcopy

    return deepcopy(pair[0])


@pytest.fixture
def model(pair):
    return pair[1]


def thin(slide, share, seed=0):
    """Keep a share of the counts; return the others."""
    table = slide.tables["table"]
    counts = table.X.toarray().astype(int)
    kept = np.random.default_rng(seed).binomial(counts, share)
    table.X = csr_matrix(kept)
    return counts - kept


def logged(counts):
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def mean_r(a, b):
    return np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])


@pytest.mark.parametrize("share", [0.25, 0.05])
def test_corrected_counts_are_closer_to_the_other_counts_than_measured_and_predicted(slide, model, share):
    rest = logged(thin(slide, share))
    ds.tl.correct(slide, model, check_registration=False)
    table = slide.tables["table_corrected"]
    known = table.var["in_model"].to_numpy()
    r = {name: mean_r(table.layers[name][:, known], rest[:, known]) for name in ("measured", "predicted", "corrected")}
    error = {
        name: np.sqrt(np.mean((table.layers[name][:, known] - rest[:, known]) ** 2))
        for name in ("measured", "predicted", "corrected")
    }
    assert r["corrected"] > max(r["measured"], r["predicted"])
    assert error["corrected"] < min(error["measured"], error["predicted"])


def with_rate_level(model, level):
    """Return the model with another level in its card."""
    from copy import copy

    other = copy(model)
    levels = [level] * len(model.card.genes)
    known = model.card.reliability.model_copy(update={"rate_level": levels})
    other.card = model.card.model_copy(update={"reliability": known})
    return other


@pytest.mark.parametrize("level", [0.4, 1.0, 2.55])
def test_corrected_rates_have_the_level_of_the_counts(slide, model, level):
    rest = logged(thin(slide, 0.1))
    ds.tl.correct(slide, with_rate_level(model, level), check_registration=False)
    made = slide.tables["table_corrected"]
    known = made.var["in_model"].to_numpy()
    layers = {name: np.asarray(made.layers[name])[:, known] for name in ("measured", "predicted", "corrected")}
    truth, rate = rest[:, known], np.asarray(made.layers["rate"])[:, known]
    assert np.median(rate.mean(axis=0) / np.expm1(truth).mean(axis=0)) == pytest.approx(1, abs=0.1)
    assert rate.mean() == pytest.approx(np.expm1(truth).mean(), rel=0.1)
    assert layers["corrected"].mean() == pytest.approx(truth.mean(), rel=0.1)
    error = {name: np.sqrt(np.mean((values - truth) ** 2)) for name, values in layers.items()}
    assert error["corrected"] < min(error["measured"], error["predicted"])


@pytest.mark.parametrize("share", [0.25, 0.05])
def test_depth_does_not_show_in_corrected_values(slide, model, share):
    half = np.random.default_rng(1).permutation(slide.tables["table"].n_obs) % 2 == 0
    ds.tl.correct(slide, model, check_registration=False)
    deep = slide.tables["table_corrected"].copy()
    counts = slide.tables["table"].X.toarray().astype(int)
    counts[half] = np.random.default_rng(0).binomial(counts[half], share)
    slide.tables["table"].X = csr_matrix(counts)
    ds.tl.correct(slide, model, check_registration=False, overwrite=True)
    mixed = slide.tables["table_corrected"]
    known = mixed.var["in_model"].to_numpy()

    def moved(layer, scale=np.asarray):
        return (scale(mixed.layers[layer]) - scale(deep.layers[layer]))[half][:, known].mean()

    assert moved("measured") < -0.2
    # The fewer the counts, the more of the corrected value is the prediction, with its own error of level.
    assert moved("corrected") == pytest.approx(0, abs={0.25: 0.04, 0.05: 0.07}[share])
    assert abs(moved("corrected")) < abs(moved("rate", np.log1p))  # the logarithm of the mean rate


def test_a_low_prediction_is_shifted_to_the_level_of_the_counts(slide, model):
    thin(slide, 0.1)
    ds.tl.correct(slide, model, check_registration=False)
    usual = slide.tables["table_corrected"].layers["rate"].mean()
    prediction = slide.tables["deepspot_spots"]
    low = prediction.copy()
    low.X = np.log1p(np.expm1(prediction.X) / 2.5)
    view = SlideView.select(slide)
    measured = view.measured("table")
    made = corrected_table(view, measured, low, measured.genes, model.residuals(), pd.Index([]))
    assert made.layers["rate"].mean() == pytest.approx(usual, rel=0.05)


def test_content_of_the_table(slide, model, log):
    before = slide.tables["table"].copy()
    ds.tl.correct(slide, model)
    table = slide.tables["table_corrected"]
    assert table.shape == before.shape
    assert list(table.obs["spot_id"]) == list(slide.shapes["spots"].index)
    layers = {name: np.asarray(values) for name, values in table.layers.items()}
    assert all(values.dtype == np.float32 for values in layers.values())
    np.testing.assert_allclose(layers["measured"], logged(before.X.toarray()), atol=1e-5)
    known = table.var["in_model"].to_numpy()
    prediction = slide.tables["deepspot_spots"]
    np.testing.assert_array_equal(layers["predicted"][:, known], prediction[:, table.var_names[known]].X)
    np.testing.assert_allclose(layers["change"], layers["corrected"] - layers["measured"], atol=1e-6)
    np.testing.assert_array_equal(table.X, layers["corrected"])
    exposure = table.obs["depth"].to_numpy(dtype=float) / 1e4
    expected = np.expm1(prediction[:, table.var_names[known]].X) * table.var["level_shift"].to_numpy()[known]
    logs, rate, weight = posterior(
        before.X.toarray()[:, known], exposure, expected, table.var["dispersion"].to_numpy(dtype=float)[known]
    )
    np.testing.assert_allclose(layers["corrected"][:, known], logs, atol=1e-4)
    np.testing.assert_allclose(layers["rate"][:, known], rate, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layers["rate"][:, ~known], np.expm1(layers["measured"][:, ~known]), rtol=1e-4)
    np.testing.assert_allclose(layers["weight"][:, known], weight, atol=1e-4)
    assert np.isnan(layers["predicted"][:, ~known]).all()
    np.testing.assert_array_equal(layers["corrected"][:, ~known], layers["measured"][:, ~known])
    assert (layers["weight"][:, ~known] == 1).all()
    said = table.uns["deepspot"]
    assert (said["kind"], said["method"], said["measured"], said["in_model"]) == ("corrected", "posterior", "table", 40)
    assert said["registration"].startswith("Aligned")
    assert said["fingerprint"] == model.fingerprint
    assert "log1p" in table.uns
    assert {"patient", "ood", "ood_score", "depth"} <= set(table.obs)
    assert any("20 genes that the model lacks" in line for line in log)
    assert (before.X != slide.tables["table"].X).nnz == 0
    assert list(before.uns) == list(slide.tables["table"].uns)


def test_deep_spots_keep_more_of_their_measurement(slide, model):
    table = slide.tables["table"]
    counts = table.X.toarray().astype(int)
    counts[:45] = np.random.default_rng(0).binomial(counts[:45], 0.1)
    table.X = csr_matrix(counts)
    ds.tl.correct(slide, model, check_registration=False)
    made = slide.tables["table_corrected"]
    weight = np.asarray(made.layers["weight"])[:, made.var["in_model"].to_numpy()]
    odds = np.median(weight / (1 - weight), axis=1)
    # The odds of the measurement are proportional to the counts.
    assert np.median(odds[:45]) / np.median(odds[45:]) == pytest.approx(0.1, rel=0.3)


def test_a_spot_without_counts_is_predicted(slide, model):
    table = slide.tables["table"]
    counts = table.X.toarray()
    counts[3] = 0
    table.X = csr_matrix(counts)
    ds.tl.correct(slide, model, check_registration=False)
    made = slide.tables["table_corrected"]
    known = made.var["in_model"].to_numpy()
    assert (np.asarray(made.layers["weight"])[3, known] == 0).all()
    assert (np.asarray(made.X)[3, known] > 0).any()
    assert made.obs["depth"].iloc[3] == 0


def test_misplaced_counts_are_detected_and_replaced(slide, model):
    table = slide.tables["table"]
    right = table.X.copy()
    table.X = table.X[::-1]  # the array rotated by 180°
    before = sorted(slide.tables)
    with pytest.raises(ValueError, match=r"(?s)do not match the image.*method='replace'.*check_registration=False"):
        ds.tl.correct(slide, model)
    assert sorted(slide.tables) == before
    ds.tl.correct(slide, model, method="replace")
    made = slide.tables["table_corrected"]
    assert list(made.var_names) == [gene for gene in table.var_names if gene in set(model.card.genes)]
    np.testing.assert_array_equal(made.X, made.layers["predicted"])
    assert (np.asarray(made.layers["weight"]) == 0).all()
    truth = logged(right.toarray())[:, table.var_names.get_indexer(made.var_names)]
    assert mean_r(made.X, truth) > mean_r(made.layers["measured"], truth) + 0.2
    assert made.uns["deepspot"]["method"] == "replace"


def test_a_misplaced_half_is_replaced_and_the_other_is_corrected(slide, model, log):
    table = slide.tables["table"]
    x = np.asarray(slide.tables["deepspot_spots"].obsm["spatial"])[:, 0]
    left = np.flatnonzero(x < np.median(x))
    counts = table.X.toarray()
    counts[left] = counts[left[::-1]]
    right = table.X.copy()
    table.X = csr_matrix(counts)
    ds.tl.correct(slide, model)
    made = slide.tables["table_corrected"]
    replaced = (made.obs["source"] == "prediction: misplaced").to_numpy()
    assert replaced[left].mean() > 0.7
    assert np.delete(replaced, left).mean() < 0.2
    assert any("'source'" in line and "left half" in line for line in log)
    known = made.var["in_model"].to_numpy()
    assert (np.asarray(made.layers["weight"])[replaced] == 0).all()
    assert np.isnan(made.X[replaced][:, ~known]).all()
    shift = made.var["level_shift"].to_numpy()[known]
    expected = np.expm1(made.layers["predicted"][replaced][:, known]) * shift
    np.testing.assert_allclose(made.layers["rate"][replaced][:, known], expected, rtol=1e-4)
    assert np.isnan(made.layers["rate"][replaced][:, ~known]).all()
    assert (made.X[replaced][:, known] <= np.log1p(expected) + 1e-4).all()
    # The other spots are corrected as if the misplaced ones were not there.
    truth = logged(right.toarray())
    assert mean_r(made.X[left][:, known], truth[left][:, known]) > mean_r(
        made.layers["measured"][left][:, known], truth[left][:, known]
    )
    assert set(made.obs["source"][~replaced]) == {"counts and prediction"}


def test_genes_can_be_named(slide, model):
    genes = [model.card.genes[3], *[g for g in slide.tables["table"].var_names if g not in model.card.genes][:1]]
    ds.tl.correct(slide, model, genes=genes, check_registration=False, key_added="some")
    ds.tl.correct(slide, model, check_registration=False)
    some, every = slide.tables["some"], slide.tables["table_corrected"]
    assert list(some.var_names) == genes
    # The result of a gene does not depend on the other genes.
    np.testing.assert_allclose(some.X, every[:, genes].X, rtol=1e-6)


def test_rows_are_matched_by_instance(slide, model):
    ds.tl.correct(slide, model, check_registration=False)
    first = slide.tables["table_corrected"]
    order = np.random.default_rng(0).permutation(slide.tables["table"].n_obs)
    slide.tables["table"] = slide.tables["table"][order].copy()
    ds.tl.correct(slide, model, check_registration=False, overwrite=True)
    np.testing.assert_allclose(slide.tables["table_corrected"].X, first.X, rtol=1e-6)


def test_the_table_can_be_written(slide, model, tmp_path):
    ds.tl.correct(slide, model, check_registration=False)
    slide.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr").tables["table_corrected"]
    np.testing.assert_array_equal(again.layers["weight"], slide.tables["table_corrected"].layers["weight"])
    assert again.uns["deepspot"]["kind"] == "corrected"


def test_invalid_input_is_refused_before_any_change(slide, model):
    before = sorted(slide.tables)
    with pytest.raises(KeyError, match="posterior"):
        ds.tl.correct(slide, model, method="average")
    with pytest.raises(KeyError, match="Similar names"):
        ds.tl.correct(slide, model, genes=[f"{model.card.genes[0]}x"])
    with pytest.raises(ValueError, match="exists"):
        ds.tl.correct(slide, model, key_added="deepspot_spots")
    slide.tables["table"].X = slide.tables["table"].X * 0.5
    with pytest.raises(ValueError, match="raw counts"):
        ds.tl.correct(slide, model)
    assert sorted(slide.tables) == before


def test_a_model_without_dispersions_can_only_replace(slide, model):
    from copy import copy

    older = copy(model)
    known = model.card.reliability.model_copy(update={"dispersion": None})
    older.card = model.card.model_copy(update={"reliability": known})
    with pytest.raises(ValueError, match="method='replace'"):
        ds.tl.correct(slide, older)
    ds.tl.correct(slide, older, method="replace")


def test_a_result_too_large_for_the_memory_is_refused(slide, model, monkeypatch):
    monkeypatch.setattr(ds.settings, "max_table_gb", 1e-6)
    with pytest.raises(ValueError, match="max_table_gb"):
        ds.tl.correct(slide, model)


def test_a_changed_prediction_is_not_used(slide, model):
    ds.tl.correct(slide, model, check_registration=False)
    first = slide.tables["table_corrected"].X.copy()
    prediction = slide.tables["deepspot_spots"]
    slide.tables["deepspot_spots"] = prediction[:, :10].copy()
    ds.tl.correct(slide, model, check_registration=False, overwrite=True)
    np.testing.assert_allclose(slide.tables["table_corrected"].X, first, rtol=1e-5)
    prediction.X = prediction.X - prediction.X.mean(axis=0)
    slide.tables["deepspot_spots"] = prediction
    ds.tl.correct(slide, model, check_registration=False, overwrite=True)
    np.testing.assert_allclose(slide.tables["table_corrected"].X, first, rtol=1e-5)


def test_the_default_model_does_not_silently_replace_the_one_that_predicted(slide, model, log, monkeypatch):
    monkeypatch.setattr("deepspot.models._registry.as_model", lambda given: model)
    ds.tl.correct(slide, check_registration=False)
    assert not any("`model` is missing" in line for line in log)
    slide.tables["deepspot_spots"].uns["deepspot"] |= {"model": "mine", "fingerprint": "another"}
    ds.tl.correct(slide, check_registration=False, overwrite=True)
    assert any("because `model` is missing" in line and "'deepspot_spots': 'mine'" in line for line in log)


def test_a_prediction_from_another_image_is_not_used(slide, model, log):
    slide.tables["deepspot_spots"].uns["deepspot"]["image_key"] = "another_image"
    ds.tl.correct(slide, model, check_registration=False)
    assert not any(line.startswith("Using sdata.tables['deepspot_spots']") for line in log)
    slide.tables["deepspot_spots"].uns["deepspot"]["image_key"] = "P2_S1_image"
    ds.tl.correct(slide, model, check_registration=False, overwrite=True)
    assert any(line.startswith("Using sdata.tables['deepspot_spots']") for line in log)
