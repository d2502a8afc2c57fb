import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st

from deepspot._stats.normalize import normalize
from deepspot.datasets._toy import toy_slide
from deepspot.models._confidence.reliability import calibrate, least_patients


def cohort(rng, n_patients, n_genes=1):
    """Errors of patients that differ in bias, spread and number of spots."""
    sizes = rng.integers(5, 60, n_patients)
    patients = np.repeat(np.arange(n_patients), sizes)
    bias, spread = rng.normal(0, 1, (n_patients, n_genes)), rng.gamma(4, 0.25, (n_patients, n_genes))
    return bias[patients] + spread[patients] * rng.normal(size=(len(patients), n_genes)), patients


@pytest.mark.parametrize(("level", "least"), [(0.5, 2), (0.75, 4), (0.8, 5), (0.9, 10), (0.95, 20)])
def test_number_of_patients_needed(level, least):
    assert least_patients(level) == least
    rng = np.random.default_rng(0)
    none, reason = calibrate(*cohort(rng, least - 1), level=level)
    assert none is None
    assert reason.endswith(f"intervals at {100 * level:g} % need at least {least}.")
    some, reason = calibrate(*cohort(rng, least), level=level)
    assert np.isfinite(some).all()
    assert reason == ""


def test_the_reason_is_a_sentence_for_the_card():
    assert calibrate(np.ones((3, 1)), np.array(list("aab")))[1] == "2 patients: intervals at 80 % need at least 5."
    assert calibrate(np.ones((3, 1)), np.array(list("aaa")))[1].startswith("1 patient: ")


@pytest.mark.parametrize("n_patients", [5, 8, 20])
def test_coverage_over_new_patients(n_patients):
    rng = np.random.default_rng(n_patients)
    covered, widths = [], []
    for _ in range(60):
        errors, patients = cohort(rng, n_patients + 1, n_genes=40)
        new = patients == n_patients
        half_width, _ = calibrate(errors[~new], patients[~new])
        covered.append((np.abs(errors[new]) <= half_width).mean())
        widths.append(half_width)
    # 60 new patients × 40 genes: the standard error of the mean is below 0.01.
    assert 0.78 < np.mean(covered) < 0.8 + 1 / (n_patients + 1)
    truth = np.quantile(np.abs(cohort(rng, 3000)[0]), 0.8)
    assert np.median(widths) < 2 * truth


def test_coverage_is_too_low_if_spots_are_taken_as_independent():
    """The quantile over spots has too low coverage if one patient has most of the spots."""
    rng = np.random.default_rng(0)
    hierarchical, plain = [], []
    for _ in range(40):
        errors, patients = cohort(rng, 7, n_genes=40)
        new, known = patients == 6, patients < 6
        heavy = np.concatenate([np.flatnonzero(known), np.repeat(np.flatnonzero(patients == 0), 20)])
        half_width, _ = calibrate(errors[heavy], patients[heavy])
        hierarchical.append((np.abs(errors[new]) <= half_width).mean())
        plain.append((np.abs(errors[new]) <= np.quantile(np.abs(errors[heavy]), 0.8, axis=0)).mean())
    assert np.mean(plain) < 0.75
    assert np.mean(hierarchical) > 0.78


def test_by_hand():
    errors = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])[:, None]
    # Five patients weigh 1/6 each, the last has two spots of 1/12: 0.8 is reached at 4/6 + 2/12.
    assert calibrate(-errors, np.array([0, 1, 2, 3, 4, 4]))[0] == [6.0]
    # At level 0.7 at 4/6 + 1/12.
    assert calibrate(errors, np.array([0, 1, 2, 3, 4, 4]), level=0.7)[0] == [5.0]


@quickly(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), n_patients=st.integers(5, 9), scale=st.floats(0.01, 100))
def test_invariants(seed, n_patients, scale):
    rng = np.random.default_rng(seed)
    errors, patients = cohort(rng, n_patients, n_genes=3)
    errors[rng.random(errors.shape) < 0.1] = np.nan
    half_width, _ = calibrate(errors, patients)
    np.testing.assert_allclose(calibrate(scale * errors, patients)[0], scale * half_width, rtol=1e-5)
    renamed = rng.permutation(n_patients)[patients]
    order = rng.permutation(len(patients))
    np.testing.assert_array_equal(calibrate(errors[order], renamed[order])[0], half_width)
    # Repeating all spots of a patient changes nothing.
    twice = np.concatenate([np.arange(len(patients)), np.flatnonzero(patients == 0)])
    np.testing.assert_allclose(calibrate(errors[twice], patients[twice])[0], half_width)
    assert (calibrate(errors, patients, level=0.7)[0] <= half_width).all()


def test_genes_that_few_patients_measured_have_no_interval():
    errors, patients = cohort(np.random.default_rng(0), 7, n_genes=4)
    errors[patients < 3, 0] = np.nan
    errors[patients < 2, 1] = np.nan
    errors[:, 2] = np.nan
    half_width, reason = calibrate(errors, patients)
    assert np.isnan(half_width[[0, 2]]).all()
    assert np.isfinite(half_width[[1, 3]]).all()
    assert reason == ""
    assert half_width[1] == calibrate(errors[patients > 1, 1:2], patients[patients > 1])[0][0]


@pytest.mark.parametrize("level", [0, 1, -0.1, 80])
def test_level_is_a_share(level):
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        calibrate(np.ones((6, 1)), np.arange(6), level=level)


def test_arrays_must_fit():
    with pytest.raises(ValueError, match="`residuals` and `patients` must have the same number of rows"):
        calibrate(np.ones((6, 1)), np.arange(5))


def test_coverage_on_a_toy_cohort():
    """Ridge on tissue composition, with batch effects, each patient held out once."""
    from sklearn.linear_model import Ridge

    shape = {"n_rows": 5, "n_cols": 6, "n_genes": 40, "mpp": 8.0, "depth": 2000, "stain_shift": 0, "batch_effect": 0.4}
    tables = [toy_slide(patient, 1, seed=0, **shape)[0] for patient in range(1, 10)]
    features = np.concatenate([table.obsm["composition"] for table in tables])
    patients = np.repeat(np.arange(9), [table.n_obs for table in tables])
    expression = np.concatenate([normalize(table.X).toarray() for table in tables])

    def errors(learned, held):
        return Ridge().fit(features[learned], expression[learned]).predict(features[held]) - expression[held]

    covered = []
    for new in range(9):
        out_of_fold = np.full_like(expression, np.nan)
        for held in set(range(9)) - {new}:
            learned = ~np.isin(patients, [new, held])
            out_of_fold[patients == held] = errors(learned, patients == held)
        known = patients != new
        half_width, _ = calibrate(out_of_fold[known], patients[known])
        covered.append((np.abs(errors(known, ~known)) <= half_width).mean())
    assert 0.77 < np.mean(covered) < 0.95
