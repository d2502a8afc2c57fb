import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from deepspot.models._cross_validation.factories import System
from deepspot.models._cross_validation.measures import BY_GENE
from deepspot.models._cross_validation.result import CrossValidation
from deepspot.models._cross_validation.tables import tidy

INNER = ["model", "fold", "inner_fold", "setting", "area"]


def result(levels, n_folds=5, n_genes=12, seed=0, **options):
    """Models of known accuracy with a common shift by patient; None is a constant prediction."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, 0.05, size=n_folds)
    parts = []
    for model, level in levels.items():
        for fold in range(n_folds):
            for slide in range(2):
                r = np.full(n_genes, np.nan if level is None else level + shift[fold])
                parts.append(
                    pd.DataFrame(
                        {
                            "model": model,
                            "null": model.startswith("null"),
                            "fold": f"P{fold}",
                            "patient": f"P{fold}",
                            "slide": f"P{fold}_{slide}",
                            "gene": [f"g{i}" for i in range(n_genes)],
                            "rank": range(1, n_genes + 1),
                            "r": r,
                            "r_pooled": r,
                            "r_beyond_axis": r / 10,
                            "r_ceiling": 0.8,
                            "undefined": "no" if level is not None else "prediction",
                        }
                        | dict.fromkeys(BY_GENE, 0.2 if level is not None else np.nan)
                    )
                )
    slides = {f"P{fold}_{slide}": f"P{fold}" for fold in range(n_folds) for slide in range(2)}
    defaults = {
        "inner": pd.DataFrame(columns=INNER),
        "grid": {model: [{}] for model in levels},
        "top": (2, 6, 100),
        "slides": slides,
        "seed": 0,
    }
    scores = tidy(pd.concat(parts, ignore_index=True))
    patterns = scores[["model", "fold", "patient", "slide"]].drop_duplicates(ignore_index=True)
    patterns["patterns_predicted"] = np.arange(1.0, len(patterns) + 1)
    values = {"r_all": 0.9, "r_all_means": 0.8, "r_all_pattern": 0.1, "r_all_of_means": 0.85, "slope": 1.5}
    defaults["patterns"] = patterns.assign(patterns_measured=9.0, gene_agreement=0.3, **values)
    folds = [f"P{fold}" for fold in range(n_folds)]
    defaults["splits"] = {
        fold: [[s for s, patient in slides.items() if (patient == fold) is test] for test in (False, True)]
        for fold in folds
    }
    defaults["columns"] = {"site": {name: "a" if name < "P2" else "b" for name in slides}}
    return CrossValidation(scores=scores, **(defaults | options))


@pytest.fixture
def cv():
    return result({"good": 0.5, "ridge": 0.4, "null mean": None})


def test_measures_are_means_over_genes_then_slides_then_patients(cv):
    found = cv.measures()
    assert list(found.index) == ["good", "ridge", "null mean"]
    areas = cv.areas().mean(axis=1)
    np.testing.assert_allclose(found["r"], areas)
    np.testing.assert_allclose(found["r_beyond_axis"], areas / 10)
    np.testing.assert_allclose(found["r_of_ceiling"], areas / 0.8)
    # Two slides for each of five patients, numbered from 1.
    np.testing.assert_allclose(found["patterns_predicted"], [5.5, 15.5, 25.5])
    assert (found["gene_agreement"] == 0.3).all()
    for name in ("r", "r_beyond_axis", "r_of_ceiling"):
        assert (found[f"{name}_low"] <= found[name]).all()
        assert (found[f"{name}_high"] >= found[name]).all()
    assert found.loc["good", "r_low"] < found.loc["good", "r"] < found.loc["good", "r_high"]


def test_measures_count_a_constant_prediction_as_0_and_leave_out_a_constant_measurement():
    cv = result({"model": 0.4}, n_folds=2, n_genes=2)
    cv.scores["r_beyond_axis"] = [0.2, np.nan] * 4
    cv.scores["undefined"] = pd.Categorical(["no", "prediction"] * 4, ["no", "prediction", "measurement"])
    assert cv.measures().loc["model", "r_beyond_axis"] == pytest.approx(0.1)
    cv.scores["undefined"] = pd.Categorical(["no", "measurement"] * 4, ["no", "prediction", "measurement"])
    assert cv.measures().loc["model", "r_beyond_axis"] == pytest.approx(0.2)
    cv.scores["r_ceiling"] = np.nan
    assert np.isnan(cv.measures().loc["model", "r_of_ceiling"])


def test_a_fold_without_a_measure_is_left_out_of_its_mean_and_interval(cv):
    found = replace(cv, scores=cv.scores.assign(r_ceiling=cv.scores["r_ceiling"].mask(cv.scores["fold"] == "P0")))
    with_all, without = cv.measures().loc["good"], found.measures().loc["good"]
    assert without["r_of_ceiling_low"] < without["r_of_ceiling"] < without["r_of_ceiling_high"]
    assert without["r_of_ceiling"] != with_all["r_of_ceiling"]
    np.testing.assert_array_equal(without[["r_low", "r_high"]], with_all[["r_low", "r_high"]])


def test_curve_is_over_genes_then_slides_then_patients(cv):
    curve = cv.curve()
    assert list(curve) == ["model", "n", "fold", "r"]
    assert list(curve["n"].unique()) == [2, 6, 12]
    assert len(curve) == 3 * 5 * 3
    table = cv.scores.copy()
    mine = (table["model"] == "good") & (table["fold"] == "P0")
    table.loc[mine & (table["slide"] == "P0_0"), "r"] = np.linspace(1, 0, 12)
    table.loc[mine & (table["slide"] == "P0_1"), "r"] = 0.0
    changed = replace(cv, scores=table.sample(frac=1, random_state=0)).curve()
    got = changed[(changed["model"] == "good") & (changed["fold"] == "P0")].set_index("n")["r"]
    expected = {n: np.linspace(1, 0, 12)[:n].mean() / 2 for n in (2, 6, 12)}
    assert got.to_dict() == pytest.approx(expected)


def test_undefined_r_counts_as_zero_or_is_left_out_by_the_constant_side(cv):
    table = cv.scores.copy()
    mine = table["model"] == "good"
    table.loc[mine & (table["rank"] == 1), ["r", "undefined"]] = [np.nan, "prediction"]
    table.loc[table["rank"] == 2, ["r", "undefined"]] = [np.nan, "measurement"]
    changed = replace(cv, scores=table, top=(4,))
    before = replace(cv, top=(4,)).summary()
    summary = changed.summary()
    assert summary.loc["good", "mean"] == pytest.approx(before.loc["good", "mean"] * 2 / 3)
    assert summary.loc["ridge", "mean"] == pytest.approx(before.loc["ridge", "mean"])
    assert list(summary["undefined_prediction"]) == [10, 0, 5 * 2 * 11]
    assert list(summary["undefined_measurement"]) == [10, 10, 10]


def test_summary_has_mean_median_and_their_uncertainty_over_patients(cv):
    summary = cv.summary()
    areas = cv.curve().groupby(["model", "fold"])["r"].first()["good"]
    good = summary.loc["good"]
    assert good["mean"] == pytest.approx(areas.mean())
    assert good["median"] == pytest.approx(areas.median())
    assert good["mean_se"] == pytest.approx(areas.std(ddof=0) / np.sqrt(5), rel=0.15)
    assert good["mean_low"] < good["mean"] < good["mean_high"]
    assert good["median_low"] <= good["median"] <= good["median_high"]
    assert list(summary["mean_rank"][:2]) == [1, 2]
    assert np.isnan(summary.loc["null mean", "mean_rank"])
    assert summary.loc["null mean", "mean"] == 0
    assert list(summary["folds"]) == [5, 5, 5]
    pd.testing.assert_frame_equal(summary, cv.summary(), check_exact=True)


def test_comparison_is_paired_by_patient():
    cv = result({"better": 0.42, "worse": 0.3, "same": 0.4, "ridge": 0.4, "null mean": None}, n_folds=12)
    found = cv.compare()
    assert list(found.index) == ["better", "worse", "same"]
    np.testing.assert_allclose(found["difference"], [0.02, -0.1, 0], atol=1e-9)
    assert (found["se"] < 1e-9).all()  # patients differ, but the difference of the models is constant
    assert list(found["won"]) == [12, 0, 0]
    assert found.loc["same", "p"] == 1
    assert (found["p_adjusted"] >= found["p"]).all()
    assert found.loc["better", "p_adjusted"] == pytest.approx(3 * found.loc["better", "p"])
    assert list(found["mean_rank"]) == [1, 4, 2.5]
    assert "null mean" not in found.index
    assert list(cv.compare("null mean").index) == ["better", "worse", "same", "ridge"]
    with pytest.raises(KeyError, match="Available keys"):
        cv.compare("rigde")
    assert cv.compare(n_bootstrap=50).loc["better", "p_adjusted"] > found.loc["better", "p_adjusted"]
    with pytest.raises(ValueError, match="`n_bootstrap` must be at least 2"):
        cv.summary(n_bootstrap=1)


def test_few_folds_and_held_out_slides_are_noted(cv):
    assert cv.summary().attrs["note"] == ""
    few = result({"ridge": 0.4, "good": 0.5}, n_folds=2)
    for frame in (few.summary(), few.compare(), few.per_gene("good")):
        assert "only 2 folds" in frame.attrs["note"]
    assert few.compare().loc["good", "p"] == 0.5
    slides = result({"ridge": 0.4, "good": 0.5}, leave_out="slide")
    assert "does not measure accuracy on other patients" in slides.summary().attrs["note"]
    assert "does not measure accuracy on other patients" in repr(slides)


def test_reliability_of_genes_is_over_patients_with_known_r(cv):
    table = cv.scores.copy()
    table = table[~((table["gene"] == "g0") & table["fold"].isin(["P0", "P1", "P2", "P3"]))]
    table.loc[(table["gene"] == "g1") & (table["fold"] == "P0"), ["r", "undefined"]] = [np.nan, "measurement"]
    found = replace(cv, scores=table).per_gene("good")
    assert list(found) == ["r", "low", "high", "n"]
    assert list(found.loc[["g0", "g1", "g2"], "n"]) == [1, 4, 5]
    assert np.isnan(found.loc["g0", ["low", "high"]].to_numpy(dtype=float)).all()
    assert found.loc["g2", "low"] < found.loc["g2", "r"] < found.loc["g2", "high"]
    mine = table[(table["model"] == "good") & (table["gene"] == "g2")]
    assert found.loc["g2", "r"] == pytest.approx(mine["r"].mean())
    assert (cv.per_gene("null mean")["r"] == 0).all()


@pytest.fixture
def chosen(least_squares):
    areas = {("P0", 0): 0.1, ("P0", 1): 0.3, ("P1", 0): 0.5, ("P1", 1): 0.4, ("P2", 0): 0.2, ("P2", 1): 0.22}
    inner = pd.DataFrame(
        [("ls", fold, str(k), s, a + 0.01 * k) for (fold, s), a in areas.items() for k in (-1, 1)], columns=INNER
    )
    grid = {"ls": [{"strength": 1.0}, {"strength": 2.0}], "ridge": [{}]}
    systems = {"ls": System("ls", least_squares, tuple(grid["ls"]))}
    return result({"ls": 0.4, "ridge": 0.3}, n_folds=3, inner=inner, grid=grid, systems=systems)


def test_best_parameters_of_folds_and_for_a_refit(chosen):
    best = chosen.best.set_index(["model", "fold"])
    assert [best.loc[("ls", fold), "params"]["strength"] for fold in ("P0", "P1", "P2")] == [2.0, 1.0, 2.0]
    assert best.loc[("ls", "P1"), "area"] == pytest.approx(0.5)
    assert chosen.chosen("ls") == {"strength": 2.0}  # 0.307 against 0.267
    assert chosen.chosen("ridge") == {}
    model = chosen.estimator("ls")
    assert model.strength == 2.0
    assert not hasattr(model, "weights")
    assert chosen.estimator("ls") is not model
    assert type(chosen.estimator("ridge")).__name__ == "Ridge"
    with pytest.raises(KeyError, match="Available keys"):
        chosen.chosen("x")


def test_saved_and_loaded_result_is_equal(chosen, tmp_path):
    chosen.scores["gene"] = chosen.scores["gene"].cat.rename_categories({"g0": "NA", "g1": "007"})
    chosen.scores.loc[3, "r"] = 1 / 3
    chosen.scores.loc[4, ["r", "undefined"]] = [np.nan, "measurement"]
    chosen.save(tmp_path / "cv")
    loaded = CrossValidation.load(tmp_path / "cv")
    pd.testing.assert_frame_equal(loaded.scores, chosen.scores, check_exact=True, check_categorical=True)
    pd.testing.assert_frame_equal(loaded.patterns, chosen.patterns, check_exact=True, check_categorical=True)
    pd.testing.assert_frame_equal(loaded.inner, chosen.inner, check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(loaded.summary(), chosen.summary(), check_exact=True)
    pd.testing.assert_frame_equal(loaded.best, chosen.best, check_dtype=False)
    assert repr(loaded) == repr(chosen)
    assert type(loaded.estimator("ridge")).__name__ == "Ridge"
    with pytest.raises(ValueError, match="does not hold its class"):
        loaded.estimator("ls")


def test_saving_overwrites_only_saved_results(cv, tmp_path):
    cv.save(tmp_path / "cv")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        cv.save(tmp_path / "cv")
    cv.save(tmp_path / "cv", overwrite=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError):
        cv.save(tmp_path / "mine", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cv", "mine"]


def test_other_folders_and_formats_are_errors(cv, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a saved cross-validation"):
        CrossValidation.load(tmp_path)
    cv.save(tmp_path / "cv")
    (tmp_path / "cv" / "patterns.csv.gz").rename(tmp_path / "patterns")
    with pytest.raises(FileNotFoundError, match=r"is incomplete: patterns\.csv\.gz is missing"):
        CrossValidation.load(tmp_path / "cv")
    (tmp_path / "patterns").rename(tmp_path / "cv" / "patterns.csv.gz")
    file = tmp_path / "cv" / "cross_validation.json"
    intact = file.read_text()
    for damaged in ("", "[]", "{}", json.dumps({"format": json.loads(intact)["format"]})):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=r"cv is damaged or not a saved cross-validation"):
            CrossValidation.load(tmp_path / "cv")
    file.write_text(intact)
    scores = tmp_path / "cv" / "scores.csv.gz"
    content = scores.read_bytes()
    for damaged in (b"", b"x", content[: len(content) // 2], content[:20] + b"0" * 40 + content[60:]):
        scores.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cv is damaged or not a saved cross-validation"):
            CrossValidation.load(tmp_path / "cv")
    scores.write_bytes(content)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="another format"):
        CrossValidation.load(tmp_path / "cv")


def test_measurements_without_variation_are_an_error(cv):
    table = cv.scores.copy()
    table["r"] = np.nan
    table["undefined"] = table["undefined"].cat.set_categories(["no", "prediction", "measurement"])
    table["undefined"] = pd.Categorical(["measurement"] * len(table), categories=table["undefined"].cat.categories)
    with pytest.raises(ValueError, match="No gene varies"):
        replace(cv, scores=table).summary()


def test_repr_is_a_few_lines(cv):
    lines = repr(cv).splitlines()
    assert lines[0] == "CrossValidation: 3 models, 5 patients held out in turn, 10 slides of 5 patients"
    assert [line.split()[0] for line in lines[2:]] == ["good", "ridge", "null"]
    assert len(lines) == 5


def test_notebooks_show_a_table(cv):
    shown = cv._repr_html_()
    assert "5 patients held out in turn" in shown
    assert re.findall(r"<th>(good|ridge|null)\b", shown) == ["good", "ridge", "null"]
    assert [f"<td>{mean:.3f}</td>" in shown for mean in cv.summary()["mean"].round(3)] == [True] * 3
    assert shown.count("null model") == 1
