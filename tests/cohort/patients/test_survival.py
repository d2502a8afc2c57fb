import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.model_selection import StratifiedShuffleSplit

import deepspot as ds
from deepspot.cohort._patients import survival as survival_file

N = 90
COLUMNS = {"time_key": "months", "status_key": "status", "event": "dead", "patient_key": "patient"}
SMALL = {"n_train": (40, 60), "n_repeats": 6, "seed": 0}


def simulated(strength, seed=0):
    """Profiles of patients whose hazard increases with the first gene."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, 30))
    death, seen = rng.exponential(20 * np.exp(-strength * X[:, 0])), rng.exponential(60, N)
    obs = pd.DataFrame(
        {
            "patient": [f"P{number}" for number in range(N)],
            "months": np.minimum(death, seen),
            "status": np.where(death <= seen, "dead", "alive"),
            "area": 1.0,
        },
        index=[f"slide {number}" for number in range(N)],
    )
    return AnnData(X, obs=obs, var=pd.DataFrame(index=[f"G{number}" for number in range(30)]))


@pytest.fixture
def profiles():
    return simulated(2.0)


@pytest.fixture(scope="session")
def result():
    return ds.cohort.survival(simulated(2.0), **COLUMNS, **SMALL)


def test_without_skglm_the_error_ends_in_the_install_line(profiles, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ds.errors.MissingPackageError, match=r'needs the package skglm: `pip install "\.\[survival\]"`\.$'
    ):
        ds.cohort.survival(profiles, **COLUMNS, **SMALL)


def test_a_simulated_hazard_is_predicted_and_a_permuted_one_is_not(result):
    summary = result.summary()
    assert list(summary.index) == [40, 60]
    assert (summary["mean"] > 0.75).all()
    assert (summary["permuted"].sub(0.5).abs() < 0.12).all()
    assert (summary["above"] == 1).all()
    assert list(summary["n_test"]) == [50, 30]


def test_without_a_signal_the_score_is_that_of_chance():
    result = ds.cohort.survival(simulated(0.0, seed=1), **COLUMNS, n_train=60, n_repeats=30, seed=0)
    row = result.summary().loc[60]
    assert abs(row["mean"] - 0.5) < 0.1
    assert abs(row["permuted"] - 0.5) < 0.06


def test_table_and_summary(result):
    table = result.table
    assert list(table.columns) == ["n_train", "repeat", "concordance", "permuted", "strength", "genes_chosen"]
    assert list(table["n_train"]) == [40] * 6 + [60] * 6
    assert list(table["repeat"]) == [*range(6), *range(6)]
    c, row = table.loc[table["n_train"] == 60, "concordance"], result.summary().loc[60]
    assert row["mean"] == pytest.approx(c.mean())
    assert row["se"] == pytest.approx(c.std() / np.sqrt(6))
    assert row["se_corrected"] == pytest.approx(c.std() * np.sqrt(1 / 6 + 30 / 60))
    assert row["low"] == pytest.approx(np.percentile(c, 2.5))
    assert c.nunique() > 1
    assert (table["genes_chosen"] >= 1).all()


def test_splits_without_a_score_are_counted_and_left_out(result):
    from dataclasses import replace

    table = result.table.copy()
    first = table["n_train"] == 40
    table.loc[table.index[first][:2], "concordance"] = np.nan
    table.loc[table.index[first][1:3], "permuted"] = np.nan
    table.loc[~first, ["concordance", "permuted"]] = np.nan
    some = replace(result, table=table)
    row, c = some.summary().loc[40], result.table.loc[first].iloc[3:]
    assert some.summary()["undefined"].tolist() == [3, 6]
    assert some.summary()["undefined"].dtype == int
    assert result.summary()["undefined"].tolist() == [0, 0]
    assert row["n_repeats"] == 6
    assert row["mean"] == pytest.approx(c["concordance"].mean())
    assert row["se"] == pytest.approx(c["concordance"].std() / np.sqrt(3))
    assert row["se_corrected"] == pytest.approx(c["concordance"].std() * np.sqrt(1 / 3 + 50 / 40))
    assert row["low"] == pytest.approx(np.percentile(c["concordance"], 2.5))
    assert row["permuted_high"] == pytest.approx(np.percentile(c["permuted"], 97.5))
    assert row["above"] == 1
    assert some.summary().loc[60].drop(["n_test", "n_repeats", "undefined"]).isna().all()
    assert repr(some).endswith("; 9 splits without a score are left out")


def test_repr(result):
    first, second = repr(result).splitlines()
    events = result.patients["event"].sum()
    assert first == f"Survival: 90 patients, {events} events; 30 genes; Cox, elastic net (0.5); 6 splits"
    row = result.summary().loc[40]
    assert second.startswith(
        f"concordance ± SE by number of training patients (permuted): 40: {row['mean']:.3f} ± {row['se']:.3f} ("
    )


def test_outcomes_are_returned(result, profiles):
    assert list(result.patients.index) == list(profiles.obs["patient"])
    assert list(result.patients["profile"]) == list(profiles.obs_names)
    assert (result.patients["event"] == (profiles.obs["status"] == "dead").to_numpy()).all()


def test_seed(result, profiles):
    again = ds.cohort.survival(profiles, **COLUMNS, **SMALL)
    pd.testing.assert_frame_equal(again.table, result.table)
    other = ds.cohort.survival(profiles, **COLUMNS, **(SMALL | {"seed": 1, "n_train": 60}))
    assert not np.allclose(other.table["concordance"], result.table["concordance"][6:])


def test_coding_of_the_event(profiles, log):
    """An event coded as 0, as in the TCGA tables, gives the same result."""
    profiles.obs["censorship"] = (profiles.obs["status"] == "alive").astype(int)
    options = {"n_train": 60, "n_repeats": 2, "seed": 0}
    by_word = ds.cohort.survival(profiles, **COLUMNS, **options)
    by_number = ds.cohort.survival(profiles, **(COLUMNS | {"status_key": "censorship", "event": 0}), **options)
    pd.testing.assert_frame_equal(by_word.table, by_number.table)
    assert log[-1].endswith("Events are patients with censorship = 0.")
    wrong = ds.cohort.survival(profiles, **(COLUMNS | {"status_key": "censorship", "event": 1}), **options)
    assert wrong.patients["event"].sum() == N - by_word.patients["event"].sum()


def test_test_patients_are_not_used(profiles, monkeypatch):
    """The weights depend on the training patients only."""
    weights, fit = [], survival_file.fit_cox
    monkeypatch.setattr(
        survival_file, "fit_cox", lambda *args, **more: weights.append(fit(*args, **more)) or weights[-1]
    )
    options = {"n_train": 60, "n_repeats": 1, "seed": 3}
    ds.cohort.survival(profiles, **COLUMNS, **options)
    draw = int(np.random.default_rng([3, 60, 0]).integers(2**31 - 1, size=2)[0])
    died = (profiles.obs["status"] == "dead").to_numpy()
    rows, test = next(StratifiedShuffleSplit(1, train_size=60, random_state=draw).split(profiles.X, died))
    np.testing.assert_allclose(weights[0].mean, profiles.X[rows].mean(axis=0))
    assert died[rows].mean() == pytest.approx(died[test].mean(), abs=0.03)
    profiles.X[test] = 1e3
    ds.cohort.survival(profiles, **COLUMNS, **options)
    np.testing.assert_array_equal(weights[2].weights, weights[0].weights)


def test_the_largest_section_of_a_patient_is_used(profiles, result, log):
    import anndata

    small = profiles[:20].copy()
    small.X, small.obs["area"], small.obs_names = np.zeros_like(small.X), 0.5, [f"small {n}" for n in range(20)]
    both = anndata.concat([small, profiles])
    with pytest.raises(ValueError, match=r"20 patients have several sections by obs\['patient'\].*`tissue_area_key=`"):
        ds.cohort.survival(both, **COLUMNS, **SMALL)
    found = ds.cohort.survival(both, **COLUMNS, tissue_area_key="area", **SMALL)
    assert not any(name.startswith("small") for name in found.patients["profile"])
    pd.testing.assert_frame_equal(found.table, result.table)
    assert "20 patients have several sections: the one with the largest area is kept." in log
    both.obs["area"] = 1.0
    tied = ds.cohort.survival(both, **COLUMNS, tissue_area_key="area", n_train=60, n_repeats=1)
    assert list(tied.patients["profile"][:20]) == list(small.obs_names)
    assert any("(the first of them for 20 ties)" in line for line in log)
    both.obs.loc["small 3", "area"] = np.nan
    with pytest.raises(ValueError, match=r"obs\['area'\] is missing for sections.*'small 3'"):
        ds.cohort.survival(both, **COLUMNS, tissue_area_key="area")
    both.obs.loc["small 3", "months"] = 999.0
    with pytest.raises(ValueError, match=r"differ in obs\['months'\]: patient 'P3' has \[999.0, "):
        ds.cohort.survival(both, **COLUMNS, tissue_area_key="area")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("status", {0: np.nan}, r"obs\['status'\] is missing for 1 patients, such as \['P0'\]"),
        ("status", {0: "lost"}, r"must have two values.*'lost': 1.*two values"),
        ("status", dict.fromkeys(range(N), "dead"), r"must have two values.*\{'dead': 90\}"),
        ("months", {4: np.nan, 5: -1.0}, r"2 are missing or below 0, such as \{'P4': nan, 'P5': -1.0\}"),
        ("months", {4: np.inf}, r"1 are missing or below 0, such as \{'P4': inf\}"),
        ("patient", {4: None}, r"obs\['patient'\] is missing for \['slide 4'\]"),
    ],
)
def test_outcomes_are_checked(profiles, column, values, message):
    changed = profiles.obs[column].astype(object)
    changed.iloc[list(values)] = list(values.values())
    profiles.obs[column] = changed
    with pytest.raises(ValueError, match=message):
        ds.cohort.survival(profiles, **COLUMNS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"event": 1}, ValueError, r"`event` is 1, but obs\['status'\] holds 'dead' and 'alive'.*\{'dead': \d+"),
        ({"time_key": "days"}, KeyError, r"Key `'days'` not found in `obs of the profiles`.*'months'"),
        ({"genes": ["G1", "X"]}, KeyError, r"Gene `'X'` is not among the 30 genes of the profiles"),
        ({"l1_ratio": 0}, ValueError, r"`l1_ratio` must be above 0 and at most 1, got 0"),
        ({"n_train": 85}, ValueError, r"There are 90 patients: too few to train on 85 and test on 10"),
        ({"n_train": ()}, ValueError, r"`n_train` is empty"),
        ({"n_train": 0}, ValueError, r"`n_train` must be at least 1, got 0"),
        ({"n_train": 60.5}, TypeError, r"`n_train` must be a whole number, got 60.5"),
        ({"n_repeats": True}, TypeError, r"`n_repeats` must be a whole number, got True"),
        ({"n_train": 5}, ValueError, r"Too few patients of one kind by obs\['status'\]"),
    ],
)
def test_options_are_checked(profiles, options, error, message):
    with pytest.raises(error, match=message):
        ds.cohort.survival(profiles, **(COLUMNS | options))


def test_profiles_are_checked(profiles):
    with pytest.raises(TypeError, match=r"`expression` must be an AnnData.*got DataFrame.*`ds.cohort.pseudobulk`"):
        ds.cohort.survival(profiles.to_df(), **COLUMNS)
    counts = profiles.copy()
    counts.X = np.ceil(np.abs(profiles.X))
    with pytest.raises(ValueError, match=r"X of the profiles holds whole numbers.*raw counts"):
        ds.cohort.survival(counts, **COLUMNS)
    profiles.uns["deepspot"] = {"kind": "pseudobulk", "groupby": "annotation"}
    profiles.obs["region"] = ["tumor", "other"] * 45
    with pytest.raises(ValueError, match=r"several regions, \['tumor', 'other'\]. Choose one: `profiles\["):
        ds.cohort.survival(profiles, **COLUMNS)


def test_missing_genes_are_left_out(profiles, log):
    profiles.X[3, 4] = np.nan
    result = ds.cohort.survival(profiles, **COLUMNS, n_train=60, n_repeats=1)
    assert result.n_genes == 29
    assert "1 of 30 genes are missing for some patient and are left out." in log
    assert ds.cohort.survival(profiles, **COLUMNS, genes=["G0", "G1"], n_train=60, n_repeats=1).n_genes == 2
    profiles.X[5] = np.nan
    with pytest.raises(ValueError, match=r"Every gene is missing for some patient.*\['P5'\]"):
        ds.cohort.survival(profiles, **COLUMNS)


def test_real_patients(data):
    """Bulk RNA of kidney tumors predicts survival; 1 is a censored patient."""
    table = pd.read_csv(data / "tcga" / "tcga_kirc_all_clean.csv.zip", low_memory=False).set_index("slide_id")
    genes = [column for column in table if column.endswith("_rnaseq")]
    profiles = AnnData(
        table[genes].to_numpy(), obs=table[["case_id", "survival_months", "censorship"]].assign(area=1.0)
    )
    result = ds.cohort.survival(
        profiles,
        time_key="survival_months",
        status_key="censorship",
        event=0,
        patient_key="case_id",
        tissue_area_key="area",
        n_train=125,
        n_repeats=6,
        seed=0,
    )
    assert len(result.patients) == 345
    assert result.patients["event"].sum() == 92
    row = result.summary().loc[125]
    assert row["mean"] > 0.6
    assert row["above"] >= 5 / 6
    assert abs(row["permuted"] - 0.5) < 0.08
