"""Train on several patients, save the model, and evaluate it on a held-out patient."""

import numpy as np

import deepspot as ds


def test_a_saved_model_predicts_the_same(model, predicted, slides, encoder, tmp_path):
    text = str(model)
    assert "40 genes" in text
    assert "ridge" in text
    model.save(tmp_path / "mine")
    loaded = ds.models.load(tmp_path / "mine")
    assert loaded.fingerprint == model.fingerprint
    slide = slides["P3_S1"]
    ds.tl.predict(slide, tmp_path / "mine", encoder=encoder, key_added="mine")
    np.testing.assert_array_equal(slide["mine"].X, predicted["deepspot_spots"].X)
    assert sorted(slide.tables) == ["mean_color_spots", "mine", "table"]


def test_genes_that_follow_the_tissue_are_predicted(predicted):
    ds.tl.evaluate(predicted)
    var = predicted["deepspot_spots"].var.join(predicted["table"].var["program"])
    r = var.groupby("program", observed=True)["pearson"].mean()
    assert r["tumor"] > max(0.2, r["noise"])
    assert {"expected_r", "pearson", "rmse"} <= set(var)
    assert "ood" in predicted["deepspot_spots"].obs
