"""Scales of expression: training, prediction and everything after it use the scale of `normalize`."""

from copy import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest

import deepspot as ds

TOTALS = {"log1p_10k": 1e4, "log1p_cpm": 1e6, "log1p_counts": None}
TEXTS = {
    "log1p_10k": "log1p of counts per 10,000",
    "log1p_cpm": "log1p of counts per 1,000,000",
    "log1p_counts": "log1p of raw counts",
}
SETTINGS = {"genes": 20, "network": {"width": 16, "members": 1}, "training": {"epochs": 2}, "seed": 0}
# Sums over all genes and spots, from the version before there were other scales.
BEFORE = {
    "X": 2621.3382,
    "rmse": 21.593,
    "ceiling": 18.9819,
    "corrected": 8122.4463,
    "rate": 299891.9308,
    "weight": 1772.7696,
    "dispersion": 18.6465,
    "rate_level": 34.6533,
    "r": 26.4341,
}


def trained(slides, **options):
    """Train on the slides of all patients but the last."""
    known = {name: slide for name, slide in slides.items() if not name.startswith("P3")}
    return ds.models.train(known, patient_key="patient", **SETTINGS, **options)


@pytest.fixture(scope="module", params=TOTALS)
def made(request, mean_color):
    """Slides, of which the last is predicted, evaluated and corrected on a scale, and the name of the scale."""
    slides = ds.datasets.toy(n_patients=3, n_rows=5, n_cols=6)
    model = trained(slides, keys={"normalize": request.param}, encoder=mean_color())
    last = slides["P3_S1"]
    ds.tl.predict(last, model, encoder=mean_color())
    ds.tl.evaluate(last)
    ds.tl.correct(last, model, check_registration=False, encoder=mean_color())
    return slides, model, request.param


def measured(slide, genes, name):
    """Counts (n, genes) on a scale, computed by hand."""
    table = slide["table"]
    counts = table.X.toarray().astype(float)
    rates = counts if TOTALS[name] is None else TOTALS[name] * counts / counts.sum(axis=1, keepdims=True)
    return np.log1p(rates[:, table.var_names.get_indexer(genes)])


def test_the_default_has_not_changed(mean_color):
    slides, encoder = ds.datasets.toy(n_patients=3, n_rows=5, n_cols=6), mean_color()
    model, last = trained(slides, encoder=encoder), slides["P3_S1"]
    ds.tl.predict(last, model, encoder=encoder)
    ds.tl.evaluate(last)
    ds.tl.correct(last, model, check_registration=False, encoder=encoder)
    cv = ds.models.cross_validate(slides, patient_key="patient", models=["linear"], genes=20, encoder=encoder)
    predicted, corrected, reliability = last["deepspot_spots"], last["table_corrected"], model.card.reliability
    found = {
        "X": predicted.X,
        "rmse": predicted.var["rmse"],
        "ceiling": predicted.var["pearson_ceiling"],
        "corrected": corrected.X,
        "rate": corrected.layers["rate"],
        "weight": corrected.layers["weight"],
        "dispersion": reliability.dispersion,
        "rate_level": reliability.rate_level,
        "r": cv.scores["r"],
    }
    assert {name: float(np.nansum(values)) for name, values in found.items()} == pytest.approx(BEFORE, rel=2e-3)
    assert (model.card.scale, model.card.depth) == ("log1p of counts per 10,000", "all measured genes")
    assert cv.normalize == "log1p_10k"


def test_card_and_tables_state_the_scale(made, tmp_path):
    slides, model, name = made
    model.save(tmp_path / "model")
    loaded = ds.models.load(tmp_path / "model")
    assert model.card.scale == loaded.card.scale == TEXTS[name]
    assert f"Values: {TEXTS[name]}" in model.card.to_markdown()
    assert ("counts summed over" in model.card.to_markdown()) == (name != "log1p_counts")
    assert model.fingerprint == loaded.fingerprint
    for key in ("deepspot_spots", "table_corrected"):
        assert slides["P3_S1"][key].uns["deepspot"]["scale"] == TEXTS[name]


def test_targets_are_on_the_scale(made):
    slides, model, name = made
    known = [measured(slide, model.card.genes, name) for key, slide in slides.items() if not key.startswith("P3")]
    np.testing.assert_allclose(model.ridge.scaler.mean, np.concatenate(known).mean(axis=0), rtol=1e-5)


def test_evaluation_compares_on_the_scale(made):
    slides, _model, name = made
    table = slides["P3_S1"]["deepspot_spots"]
    truth = measured(slides["P3_S1"], table.var_names, name)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(table.X.T, truth.T, strict=True)]
    np.testing.assert_allclose(table.var["pearson"], r, rtol=1e-4)
    np.testing.assert_allclose(table.var["rmse"], np.sqrt(((table.X - truth) ** 2).mean(axis=0)), rtol=1e-4)
    depth = np.log(slides["P3_S1"]["table"].X.toarray().sum(axis=1))
    np.testing.assert_allclose(
        table.var["pearson_depth"], [np.corrcoef(depth, gene)[0, 1] for gene in truth.T], rtol=1e-4
    )


def test_correction_weighs_rates_of_the_scale(made):
    slides, model, name = made
    table = slides["P3_S1"]["table_corrected"][:, model.card.genes]
    truth = measured(slides["P3_S1"], table.var_names, name)
    np.testing.assert_allclose(table.layers["measured"], truth, rtol=1e-4, atol=1e-5)
    expected = np.expm1(table.layers["predicted"]) * table.var["level_shift"].to_numpy()
    # Predictions close to 0 are raised to a share of their mean.
    expected = np.maximum(expected, 0.05 * expected.mean(axis=0))
    weight = table.layers["weight"]
    np.testing.assert_allclose(
        table.layers["rate"], weight * np.expm1(truth) + (1 - weight) * expected, rtol=1e-3, atol=1e-3
    )
    depth = np.asarray(slides["P3_S1"]["table"].X.sum(axis=1))
    exposure = np.ones_like(depth) if TOTALS[name] is None else depth / TOTALS[name]
    noise = table.var["dispersion"].to_numpy().clip(1e-3) * expected * exposure
    np.testing.assert_allclose(weight, noise / (1 + noise), rtol=1e-3)
    # The level of the corrected counts is that of the slide.
    counts = table.layers["rate"] * exposure
    total = slides["P3_S1"]["table"][:, table.var_names].X.toarray().sum()
    assert counts.sum() == pytest.approx(total, rel=0.1)


def test_maps_and_profiles_name_the_scale(made):
    slides, model, name = made
    last = slides["P3_S1"]
    axes = ds.pl.spatial(last, model.card.genes[0])
    labels = {ax.get_ylabel() for ax in axes[0].figure.axes} - {""}
    assert labels == {TEXTS[name]}
    r = np.corrcoef(*(values[:, 0] for values in (last["deepspot_spots"].X, measured(last, model.card.genes, name))))
    assert f"r = {r[0, 1]:.2f}" in axes[1].get_title()
    plt.close("all")
    profiles = ds.cohort.pseudobulk({"P3_S1": last}, table_key="deepspot_spots")
    assert profiles.uns["deepspot"]["scale"] == TEXTS[name]


def test_the_alignment_uses_counts_on_the_scale(made):
    slides, _, name = made
    last = slides["P3_S1"]
    result = ds.tl.check_alignment(last, prediction_key="deepspot_spots", max_shift=1)
    table = last["deepspot_spots"]
    truth = measured(last, table.var_names, name)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(table.X.T, truth.T, strict=True)]
    assert result.table["r"].iloc[0] == pytest.approx(np.mean(r), abs=1e-3)


def test_cross_validation_scores_on_the_scale(mean_color):
    slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    found = {}
    for name in TOTALS:
        options = {"models": ["linear"], "genes": 20, "keys": {"normalize": name}, "patient_key": "patient"}
        options["encoder"] = mean_color()
        cv = ds.models.cross_validate(slides, **options)
        assert cv.normalize == name
        found[name] = cv.scores.query("model == 'position only'")["r_ceiling"].mean()
    assert len(set(found.values())) == 3


def test_unknown_scales_can_be_correlated_only(made, log):
    from spatialdata import deepcopy

    slides, model, _ = made
    last = deepcopy(slides["P3_S1"])
    ds.tl.evaluate(last, overwrite=True)
    known = last["deepspot_spots"].var.copy()
    last["deepspot_spots"].uns["deepspot"]["scale"] = "z-scores"
    ds.tl.evaluate(last, overwrite=True)
    found = last["deepspot_spots"].var
    assert found["pearson"].notna().any()
    assert known["rmse"].notna().any()
    assert found[["rmse", "mae", "slope", "ssim"]].isna().all(axis=None)
    assert any("on the scale 'z-scores'" in line for line in log)
    other = copy(model)
    other.card = model.card.model_copy(update={"scale": "z-scores"})
    with pytest.raises(ValueError, match="predicts on the scale 'z-scores', and counts are corrected on one of"):
        ds.tl.correct(last, other)
    with pytest.raises(ValueError, match=r"on the scale 'z-scores'. Profiles need one of"):
        ds.cohort.pseudobulk({"P3_S1": last}, table_key="deepspot_spots")


def test_profiles_of_different_scales_are_refused(made):
    from spatialdata import deepcopy

    slides, _, name = made
    other = deepcopy(slides["P3_S1"])
    other["deepspot_spots"].uns["deepspot"]["scale"] = next(text for key, text in TEXTS.items() if key != name)
    with pytest.raises(ValueError, match="are on different scales"):
        ds.cohort.pseudobulk({"a": slides["P3_S1"], "b": other}, table_key="deepspot_spots")


def test_names_of_scales_are_checked():
    with pytest.raises(ValueError, match=r"normalize.*log1p_10k.*log1p_counts.*log1p_cpm"):
        ds.models.train(ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5), keys={"normalize": "cpm"})
