import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.linear_model import LogisticRegression

import deepspot as ds
from deepspot.cohort._patients.classify import STRENGTHS, fit_and_predict

N = 90
SMALL = {"label_key": "type", "patient_key": "patient", "n_train": (45, 60), "n_repeats": 8, "seed": 0}


def simulated(effect, shares=(0.5, 0.5)):
    """Profiles in which each class except the first has 20 higher genes."""
    rng = np.random.default_rng(0)
    label = np.repeat([f"type {k}" for k in range(len(shares))], (np.array(shares) * N).round().astype(int))
    X = rng.standard_normal((N, 200))
    for k in range(1, len(shares)):
        X[label == f"type {k}", 20 * k : 20 * k + 20] += effect
    names = [f"P{number}" for number in range(N)]
    return AnnData(X, obs=pd.DataFrame({"type": label, "patient": names}, index=names))


@pytest.fixture(scope="session")
def result():
    return ds.cohort.classify(simulated(1.5), **SMALL)


def test_simulated_classes_are_predicted_and_permuted_ones_are_not(result):
    summary = result.summary()
    assert (summary["mean"] > 0.9).all()
    assert (summary["permuted"].between(0.35, 0.6)).all()
    assert (summary["above"] == 1).all()
    assert list(summary["n_test"]) == [45, 30]


def test_without_a_signal_the_score_is_that_of_chance():
    row = ds.cohort.classify(simulated(0.0), **(SMALL | {"n_train": 60, "n_repeats": 20})).summary().loc[60]
    assert abs(row["mean"] - row["permuted"]) < 0.12


def test_a_rare_class_counts_as_much_as_a_common_one():
    """Always predicting the most common of three classes has the macro F1 of that class divided by three."""
    row = ds.cohort.classify(simulated(0.0, (0.7, 0.2, 0.1)), **(SMALL | {"n_train": 60})).summary().loc[60]
    share = 0.7
    assert row["mean"] == pytest.approx(2 * share / (1 + share) / 3, abs=0.06)
    result = ds.cohort.classify(simulated(3.0, (0.7, 0.2, 0.1)), **(SMALL | {"n_train": 60}))
    assert result.summary().loc[60, "mean"] > 0.9


def test_result(result):
    assert list(result.table.columns) == ["n_train", "repeat", "f1", "permuted", "strength"]
    assert len(result.table) == 16
    assert list(result.patients.columns) == ["profile", "label"]
    first, second = repr(result).splitlines()
    assert first == "Classification: 90 patients (45 type 0, 45 type 1); 200 genes; logistic, L2; 8 splits"
    assert second.startswith("macro F1 ± SE by number of training patients (permuted): 45: ")
    pd.testing.assert_frame_equal(ds.cohort.classify(simulated(1.5), **SMALL).table, result.table)


def test_labels_are_checked():
    profiles = simulated(1.0)
    profiles.obs["type"] = "one"
    with pytest.raises(ValueError, match=r"obs\['type'\] is 'one' for all patients"):
        ds.cohort.classify(profiles, **SMALL)
    profiles.obs["type"] = ["a"] * 87 + ["b"] * 3
    with pytest.raises(ValueError, match=r"Too few patients of one kind by obs\['type'\].*\{'a': 87, 'b': 3\}.*'b'"):
        ds.cohort.classify(profiles, **SMALL)
    profiles.obs["type"] = pd.Series([None, *["a", "b"] * 44, "a"], index=profiles.obs_names, dtype=object)
    with pytest.raises(ValueError, match=r"obs\['type'\] is missing for 1 patients, such as \['P0'\]"):
        ds.cohort.classify(profiles, **SMALL)
    with pytest.raises(KeyError, match=r"Key `'grade'` not found in `obs of the profiles`"):
        ds.cohort.classify(profiles, **(SMALL | {"label_key": "grade"}))


def test_a_rotation_does_not_change_the_result():
    rng = np.random.default_rng(0)
    X, unseen = rng.standard_normal((60, 200)) * 3 + 1, rng.standard_normal((200, 200)) * 3 + 1
    labels = np.where(X[:, :10].sum(axis=1) > 10, "a", "b")
    X = np.column_stack([X, np.ones(60)])  # a constant gene
    unseen = np.column_stack([unseen, np.full(200, 5.0)])
    result, strength = fit_and_predict(X, labels, unseen, seed=0)
    mean, scale = X[:, :200].mean(axis=0), X[:, :200].std(axis=0) * np.sqrt(200)
    plain = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit((X[:, :200] - mean) / scale, labels)
    assert strength in STRENGTHS
    assert (result == plain.predict((unseen[:, :200] - mean) / scale)).mean() > 0.99
    assert 0.5 < (result == np.where(unseen[:, :10].sum(axis=1) > 10, "a", "b")).mean() < 1
