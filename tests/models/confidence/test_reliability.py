import numpy as np
import pytest

import deepspot as ds
from deepspot._stats.metrics import pearson
from deepspot._stats.patterns import beyond_first_axis, compare_patterns
from deepspot.models._bundle.parse import parse_card
from deepspot.models._confidence.folds import make_folds
from deepspot.models._confidence.next_slide import next_slide_interval, squeeze
from deepspot.models._confidence.reliability import measure_reliability

N, GENES = 240, 5


@pytest.fixture(scope="module")
def measured():
    return np.random.default_rng(0).normal(size=(N, GENES))


def labels(parts):
    return np.repeat(np.arange(parts), N // parts)


def test_expected_r_is_the_mean_over_patients_of_r_within_slides(measured):
    patients, slides = labels(3), labels(6)
    predicted = measured + np.random.default_rng(1).normal(size=measured.shape) + 5 * slides[:, None]
    found = measure_reliability(predicted, measured, make_folds(np.arange(N), slides, patients), slides)
    within = np.array([pearson(predicted[slides == s], measured[slides == s]) for s in range(6)])
    np.testing.assert_allclose(found.r, within.mean(axis=0), atol=1e-3)
    assert all(low <= r <= high for low, r, high in zip(found.r_low, found.r, found.r_high, strict=True))
    assert (found.unit, found.n, found.r_n) == ("patients", 3, [3] * GENES)


def test_intervals_need_five_patients(measured):
    few = measure_reliability(measured, measured, make_folds(np.arange(N), labels(4), labels(4)), labels(4))
    assert few.half_width is None
    assert "5" in few.why_no_interval
    noisy = measured + 0.5 * np.random.default_rng(2).normal(size=measured.shape)
    enough = measure_reliability(noisy, measured, make_folds(np.arange(N), labels(6), labels(6)), labels(6))
    assert enough.why_no_interval == ""
    covered = np.abs(noisy - measured) <= np.array(enough.half_width)
    assert 0.78 < covered.mean() <= 1


def test_slides_of_one_patient_give_no_intervals(measured):
    found = measure_reliability(measured, measured, make_folds(np.arange(N), labels(6), np.zeros(N)), labels(6))
    assert found.unit == "slides"
    assert found.half_width is None
    assert "one patient" in found.why_no_interval
    assert found.r_low == found.r_high == [None] * GENES


def test_a_gene_that_varies_nowhere_has_no_r_and_a_constant_prediction_has_r_zero(measured):
    truth, predicted, slides = measured.copy(), measured.copy(), labels(3)
    truth[:, 0] = 1
    predicted[:, 1] = 1
    truth[slides > 0, 2] = 7
    found = measure_reliability(predicted, truth, make_folds(np.arange(N), slides, slides), slides)
    assert found.r[0] is None
    assert found.r[1] == 0
    assert found.r[2] == 1
    assert found.r_low[2] is None  # one patient alone
    assert found.r_n == [0, 3, 1, 3, 3]


def test_fewer_than_three_patients_give_no_interval_of_r(measured):
    found = measure_reliability(measured, measured, make_folds(np.arange(N), labels(4), labels(2)), labels(4))
    assert found.r_low == found.r_high == [None] * GENES
    assert found.r_n == [2] * GENES


@pytest.mark.parametrize("shared", [0, 0.1])
@pytest.mark.parametrize(("n_patients", "n_slides"), [(3, 1), (3, 3), (6, 2)])
def test_interval_covers_the_next_slide_of_a_new_patient(n_patients, n_slides, shared):
    rng, covered, narrow, names = np.random.default_rng(0), [], [], np.repeat(np.arange(n_patients + 1), n_slides)
    for _ in range(100):
        spread = 0.1 * np.sqrt(8 / rng.chisquare(8, 100))
        patients = rng.normal(0.3, 0.2, 100) + rng.normal(0, shared, (n_patients + 1, 1))
        patients = patients + spread * rng.normal(size=(n_patients + 1, 100))
        r = np.tanh(patients[names] + rng.normal(0, 0.1, (len(names), 100)))
        low, high = next_slide_interval(r[: n_patients * n_slides], names[: n_patients * n_slides])
        covered.append(((low <= r[-1]) & (r[-1] <= high)).mean())
        narrow.append((high - low < 0.1).mean())
    assert 0.85 < np.mean(covered) < 0.95
    assert np.mean(narrow) == 0


def test_genes_that_few_patients_measured_have_no_interval():
    r = np.random.default_rng(0).uniform(0.2, 0.4, (4, 6))
    r[2:, 0], r[3, 1] = np.nan, np.nan
    low, high = next_slide_interval(r, np.arange(4))
    np.testing.assert_array_equal(np.isnan(low), np.arange(6) == 0)
    assert (low[1:] < r[:3, 1:].min(axis=0)).all()
    assert (high[1:] > r[:3, 1:].max(axis=0)).all()


@pytest.mark.parametrize("r", [np.zeros((3, 4)), np.ones((3, 4)), np.array([[0.1], [0.2], [0.4]])])
def test_interval_of_equal_r_and_of_a_single_gene_is_finite(r):
    low, high = next_slide_interval(np.repeat(r, 2, axis=0), np.repeat(np.arange(3), 2))
    assert (np.isfinite(low) & (low <= high)).all()


@pytest.mark.parametrize("prior", [3, 10])
def test_moderated_variances_recover_their_prior(prior):
    rng, df = np.random.default_rng(0), np.full(5000, 4)
    variance = 0.04 * prior / rng.chisquare(prior, 5000)
    moderated, total = squeeze(variance * rng.chisquare(4, 5000), df)
    np.testing.assert_allclose(total - df, prior, rtol=0.15)
    raw = variance * rng.chisquare(4, 5000) / 4
    assert np.mean(np.abs(np.log(moderated / variance))) < np.mean(np.abs(np.log(raw / variance)))


def test_r_beyond_the_axis_and_patterns_are_means_over_units_of_means_over_slides():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(90, 8)) + 2 * rng.normal(size=(90, 1))
    predicted = targets + rng.normal(size=targets.shape)
    slides = np.repeat(["a", "b", "c"], 30)
    folds = make_folds(np.arange(90), slides, np.repeat(["P", "Q"], [60, 30]))
    found = measure_reliability(predicted, targets, folds, slides)
    parts = [slice(30), slice(30, 60), slice(60, 90)]
    beyond = np.array([beyond_first_axis(predicted[part], targets[part]) for part in parts])
    np.testing.assert_allclose(found.r_beyond_axis, (beyond[:2].mean(axis=0) + beyond[2]) / 2, atol=1e-4)
    numbers = [compare_patterns(predicted[part], targets[part]) for part in parts]
    for name in numbers[0]:
        a, b, c = (number[name] for number in numbers)
        assert getattr(found, name) == pytest.approx(((a + b) / 2 + c) / 2, abs=1e-4)


def test_cards_of_earlier_versions_have_no_interval_and_say_so():
    content = ds.models.load().card.model_dump(mode="json")
    content["reliability"] |= {"r_n": None, "r_low": [0.1] * 1000, "r_high": [0.4] * 1000}
    old = parse_card(content, "card.json").reliability
    assert old.r_low == old.r_high == [None] * 1000
    expected = ds.models.load().expected_r()
    assert expected[["expected_r_low", "expected_r_high"]].isna().all(axis=None)
    # One gene was measured in one patient only.
    known = expected["expected_r"].notna()
    assert list(expected.index[~known]) == ["KRT14"]
    assert (expected.loc[known, "expected_r_n"] == 2).all()
