"""Given folds."""

import numpy as np
import pytest

import deepspot as ds
from deepspot.models._cross_validation.folds import given_folds, given_splits, plan_folds

SLIDES = ["a1", "a2", "b1", "c1"]


def test_forms_of_folds():
    pairs = {"1": [["b1", "c1"], ["a1", "a2"]], "2": [["a1"], ["c1"]]}
    assert given_folds([(["b1", "c1"], ["a1", "a2"]), (("a1",), np.array(["c1"]))], SLIDES) == pairs
    assert given_folds({1: (["b1", "c1"], ["a1", "a2"]), 2: (["a1"], ["c1"])}, SLIDES) == pairs
    assert given_folds({"P": ["a1", "a2"], "Q": ["c1"]}, SLIDES) == {
        "P": [["b1", "c1"], ["a1", "a2"]],
        "Q": [["a1", "a2", "b1"], ["c1"]],
    }


@pytest.mark.parametrize(
    ("splits", "error", "message"),
    [
        ("abc", TypeError, "`splits` must be a list of pairs"),
        ([], TypeError, "`splits` must be a list of pairs"),
        (3, TypeError, "`splits` must be a list of pairs"),
        ([["a1", "b1"]], TypeError, r"Fold 1 of `splits` must be a pair of lists, \(training slides, test slides\);"),
        ({"x": "a1"}, TypeError, "Fold 'x' .*or a list of test slides; got 'a1'"),
        ([(["a1"], ["b1"], ["c1"])], TypeError, "Fold 1 of `splits` must be a pair"),
        ([(["a1"], ["B1"])], KeyError, r"Key `'B1'` not found in `slides`.*\['a1', 'a2', 'b1', 'c1'\]"),
        ([(["a1"], ["b1"]), ([], ["b1"])], ValueError, "Fold 2 of `splits` has no training slide"),
        ([(["a1"], [])], ValueError, "Fold 1 of `splits` has no test slide"),
        ({"all": SLIDES}, ValueError, "Fold 'all' of `splits` has no training slide"),
        ([(["a1", "a1"], ["b1"])], ValueError, "Fold 1 of `splits` has a repeated training slide"),
        ([(["a1", "b1"], ["b1"])], ValueError, "Slide 'b1' is on both sides of fold 1 of `splits`"),
    ],
)
def test_wrong_folds_are_refused(splits, error, message):
    with pytest.raises(error, match=message):
        given_folds(splits, SLIDES)


def test_a_patient_on_both_sides_is_a_leak_unless_slides_are_left_out(cohort):
    slides, _, _ = cohort(n_patients=2, n_slides=2)
    folds = given_folds([(["P0_S0", "P1_S0"], ["P0_S1"])], [slide.name for slide in slides])
    with pytest.raises(ValueError, match=r"Patient 'P0' is on both sides of fold '1'.*and `splits`"):
        given_splits(slides, folds, "patient")
    (split,) = given_splits(slides, folds, "slide")
    assert [slide.name for slide in split.test] == ["P0_S1"]


def test_given_folds_of_single_patients_are_the_usual_ones(cohort):
    slides, _, centers = cohort(n_patients=3)
    names = [slide.name for slide in slides]
    given = given_folds({slide.patient: [slide.name] for slide in slides}, names)
    usual = plan_folds(slides, centers, 10, tune=True)
    for (outer, inner), (expected, parts) in zip(plan_folds(slides, centers, 10, given=given), usual, strict=True):
        assert outer.split.name == expected.split.name
        assert outer.genes == expected.genes
        assert [part.genes for part in inner] == [part.genes for part in parts]


@pytest.fixture(scope="module")
def four(mean_color):
    slides = ds.datasets.toy(n_patients=4, n_rows=4, n_cols=5)
    return slides, {"models": ["linear"], "genes": 10, "encoder": mean_color()}


def test_folds_are_run_saved_and_noted(four, tmp_path, caplog):
    slides, options = four
    folds = [(["P1_S1", "P2_S1"], ["P3_S1"]), (["P1_S1"], ["P2_S1", "P3_S1"])]
    cv = ds.models.cross_validate(slides, patient_key="patient", splits=folds, **options)
    assert "Slides ['P4_S1'] are in no fold" in caplog.text
    assert list(cv.areas().columns) == ["1", "2"]
    assert cv.scores.groupby("fold", observed=True)["slide"].unique().map(list).to_dict() == {
        "1": ["P3_S1"],
        "2": ["P2_S1", "P3_S1"],
    }
    assert cv.splits == {"1": [["P1_S1", "P2_S1"], ["P3_S1"]], "2": [["P1_S1"], ["P2_S1", "P3_S1"]]}
    assert "2 given folds" in repr(cv)
    assert "Patients are tested in several folds" in cv.summary().attrs["note"]
    cv.save(tmp_path / "cv")
    assert ds.models.CrossValidation.load(tmp_path / "cv").splits == cv.splits


def test_unknown_patients_are_slides_and_copies_are_found(four):
    from spatialdata import deepcopy

    slides, options = four
    folds = {"last": ["P3_S1", "P4_S1"]}
    cv = ds.models.cross_validate(slides, patient_key=None, splits=folds, **options)
    assert cv.slides == {name: name for name in slides}
    with pytest.raises(ValueError, match="Several slides need `patient_key`"):
        ds.models.cross_validate(slides, patient_key=None, **options)
    again = slides | {"copy": deepcopy(slides["P1_S1"])}
    with pytest.raises(ValueError, match=r"'P1_S1'.* and 'copy'.* have the same counts"):
        ds.models.cross_validate(again, patient_key=None, splits=folds, **options)
