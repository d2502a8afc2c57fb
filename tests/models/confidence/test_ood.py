import numpy as np
import pytest

from deepspot.models._confidence import ood
from deepspot.models._confidence.ood import OODDetector


def slide(rng, n=120, shift=0.0, dim=32):
    """Spots on a plane of 4 dimensions plus noise, away from the origin as embeddings are."""
    axes = np.random.default_rng(99).normal(size=(4, dim))
    return (2 + shift + rng.normal(size=(n, 4)) @ axes + rng.normal(0, 0.3, (n, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    return np.concatenate([slide(rng) for _ in range(4)]), np.repeat(list("abcd"), 120)


@pytest.fixture(scope="module")
def detector(cohort):
    spot, slides = cohort
    return OODDetector.fit(spot, np.arange(len(spot)), slides, slides)


def test_a_similar_slide_is_rarely_flagged_and_another_tissue_always(detector):
    rng = np.random.default_rng(1)
    assert 0.01 < (detector.score(slide(rng, n=1000)) > 1).mean() < 0.1
    strange = rng.normal(size=(50, 32)).astype(np.float32)
    assert (detector.score(strange) > 1).all()
    score = detector.score(strange)
    assert score.shape == (50,)
    assert score.dtype == np.float32
    assert (score > 1).all()


def test_training_spots_have_low_scores(detector, cohort):
    assert np.median(detector.score(cohort[0])) < np.median(detector.score(slide(np.random.default_rng(2))))


def test_threshold_is_from_held_out_patients(cohort):
    spot, slides = cohort
    apart = spot.copy()
    for number, (name, shift) in enumerate({"a": -6, "b": -2, "c": 2, "d": 6}.items()):
        apart[slides == name] = slide(np.random.default_rng(number), shift=shift)
    by_patient = OODDetector.fit(apart, np.arange(480), slides, slides)
    # The same spots in mixed slides, which are all alike.
    mixed = np.tile(list("abcd"), 120)
    by_mixture = OODDetector.fit(apart, np.arange(480), mixed, mixed)
    assert by_patient.threshold > 1.3 * by_mixture.threshold


def test_only_the_given_rows_count_and_each_once(cohort):
    spot, slides = cohort
    rows = np.flatnonzero(slides != "d")
    once = OODDetector.fit(spot, rows, slides, slides)
    spoilt = spot.copy()
    spoilt[slides == "d"] = 1e3
    often = OODDetector.fit(spoilt, np.concatenate([rows, rows[:50], rows[:50]]), slides, slides)
    np.testing.assert_array_equal(often.core, once.core)
    assert often.threshold == once.threshold


def test_score_does_not_depend_on_the_norm(detector):
    spot = slide(np.random.default_rng(4))
    np.testing.assert_allclose(detector.score(7 * spot), detector.score(spot), atol=1e-4)


def test_core_is_bounded_and_seeded(monkeypatch, cohort):
    monkeypatch.setattr(ood, "CORE", 60)
    spot, slides = cohort
    first, again, other = (OODDetector.fit(spot, np.arange(480), slides, slides, seed=seed) for seed in (1, 1, 2))
    assert first.core.shape == (60, 32)
    np.testing.assert_array_equal(first.core, again.core)
    assert not np.array_equal(first.core, other.core)
    assert 0 < (first.score(slide(np.random.default_rng(5), n=1000)) > 1).mean() < 0.12


def test_a_detector_without_training_data_returns_nan():
    detector = OODDetector.unknown(4)
    assert not detector.known
    assert np.isnan(detector.score(np.ones((3, 4)))).all()


def test_another_embedding_is_refused(detector):
    with pytest.raises(ValueError, match=r"`spot` must be of shape \(n, 32\), got \(5, 16\)"):
        detector.score(np.ones((5, 16)))


def test_tiny_and_constant_training_sets():
    one = np.zeros(3, int)
    two = OODDetector.fit(np.eye(3, dtype=np.float16), np.arange(3), one, one)
    assert np.isfinite(two.score(np.ones((2, 3)))).all()
    alike = OODDetector.fit(np.ones((3, 3)), np.arange(3), one, one)
    assert not (alike.score(np.ones((1, 3))) > 1).any()
    assert (alike.score(np.array([[1.0, -1.0, 0.0]])) > 1).all()
    with pytest.raises(ValueError, match="at least 2"):
        OODDetector.fit(np.ones((1, 3)), np.arange(1), one[:1], one[:1])


def test_two_distant_patients_do_not_raise_the_threshold():
    rng = np.random.default_rng(0)
    places = np.eye(32)[:3] * 20
    one, two, foreign = (place + rng.normal(size=(150, 32)) for place in places)
    names = np.repeat(["a", "b"], 150)
    found = OODDetector.fit(np.concatenate([one, two]).astype(np.float32), np.arange(300), names, names)
    assert (found.score(foreign.astype(np.float32)) > 1).mean() > 0.95
    assert (found.score((places[0] + rng.normal(size=(150, 32))).astype(np.float32)) > 1).mean() < 0.3


def test_parts_of_a_slide_are_compared_with_all_other_spots():
    """With one slide for each patient, the core of a held-out part includes the other slides."""
    rng = np.random.default_rng(5)
    half = slide(rng, n=60)
    # Each spot has a near copy on the other slide only.
    spot = np.concatenate([half, half + rng.normal(0, 0.01, half.shape).astype(np.float32)])
    names = np.repeat(["a", "b"], 60)
    twins = OODDetector.fit(spot, np.arange(120), names, names)
    alone = OODDetector.fit(half, np.arange(60), names[:60], names[:60])
    assert twins.threshold < 0.95 * alone.threshold
