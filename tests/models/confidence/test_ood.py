import numpy as np
import pytest

from deepspot.models._confidence import ood
from deepspot.models._confidence.ood import Novelty


def slide(rng, n=120, shift=0.0, dim=32):
    """Spots on a plane of 4 dimensions plus noise, away from the origin as embeddings are."""
    axes = np.random.default_rng(99).normal(size=(4, dim))
    return (2 + shift + rng.normal(size=(n, 4)) @ axes + rng.normal(0, 0.3, (n, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    return np.concatenate([slide(rng) for _ in range(4)]), np.repeat(list("abcd"), 120)


@pytest.fixture(scope="module")
def novelty(cohort):
    spot, slides = cohort
    return Novelty.fit(spot, np.arange(len(spot)), slides, slides)


def test_a_similar_slide_is_rarely_flagged_and_another_tissue_always(novelty):
    rng = np.random.default_rng(1)
    assert 0.01 < novelty.flag(slide(rng, n=1000)).mean() < 0.1
    strange = rng.normal(size=(50, 32)).astype(np.float32)
    assert novelty.flag(strange).all()
    score = novelty.score(strange)
    assert score.shape == (50,)
    assert score.dtype == np.float32
    assert (score > 1).all()


def test_training_spots_are_the_most_familiar(novelty, cohort):
    assert np.median(novelty.score(cohort[0])) < np.median(novelty.score(slide(np.random.default_rng(2))))


def test_the_threshold_comes_from_patients_that_were_left_out(cohort):
    spot, slides = cohort
    apart = spot.copy()
    for number, (name, shift) in enumerate({"a": -6, "b": -2, "c": 2, "d": 6}.items()):
        apart[slides == name] = slide(np.random.default_rng(number), shift=shift)
    by_patient = Novelty.fit(apart, np.arange(480), slides, slides)
    # The same spots in mixed slides: every left-out slide then looks like the others.
    mixed = np.tile(list("abcd"), 120)
    by_mixture = Novelty.fit(apart, np.arange(480), mixed, mixed)
    assert by_patient.threshold > 1.3 * by_mixture.threshold


def test_only_the_given_rows_count_and_each_once(cohort):
    spot, slides = cohort
    rows = np.flatnonzero(slides != "d")
    once = Novelty.fit(spot, rows, slides, slides)
    spoilt = spot.copy()
    spoilt[slides == "d"] = 1e3
    often = Novelty.fit(spoilt, np.concatenate([rows, rows[:50], rows[:50]]), slides, slides)
    np.testing.assert_array_equal(often.core, once.core)
    assert often.threshold == once.threshold


def test_length_of_an_embedding_plays_no_part(novelty):
    spot = slide(np.random.default_rng(4))
    np.testing.assert_allclose(novelty.score(7 * spot), novelty.score(spot), atol=1e-4)


def test_core_is_bounded_and_seeded(monkeypatch, cohort):
    monkeypatch.setattr(ood, "CORE", 60)
    spot, slides = cohort
    first, again, other = (Novelty.fit(spot, np.arange(480), slides, slides, seed=seed) for seed in (1, 1, 2))
    assert first.core.shape == (60, 32)
    np.testing.assert_array_equal(first.core, again.core)
    assert not np.array_equal(first.core, other.core)
    assert 0 < first.flag(slide(np.random.default_rng(5), n=1000)).mean() < 0.12


def test_arrays_make_the_same_score(novelty):
    arrays = novelty.arrays()
    assert {name: value.dtype for name, value in arrays.items()} == {"core": np.float32, "threshold": np.float32}
    spot = slide(np.random.default_rng(6))
    np.testing.assert_array_equal(Novelty.from_arrays(arrays).score(spot), novelty.score(spot))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("core", np.ones(3), "`core` must be a finite matrix"),
        ("core", np.full((2, 3), np.nan), "`core` must be a finite matrix"),
        ("threshold", np.zeros(1), "`threshold` must be one number above 0"),
        ("threshold", np.ones(2), "`threshold` must be one number above 0"),
    ],
)
def test_broken_arrays_are_refused(novelty, name, value, message):
    with pytest.raises(ValueError, match=message):
        Novelty.from_arrays(novelty.arrays() | {name: value})


def test_another_embedding_is_refused(novelty):
    with pytest.raises(ValueError, match=r"`spot` must be of shape \(n, 32\), got \(5, 16\)"):
        novelty.score(np.ones((5, 16)))


def test_tiny_and_monotonous_training_sets():
    one = np.zeros(3, int)
    two = Novelty.fit(np.eye(3, dtype=np.float16), np.arange(3), one, one)
    assert np.isfinite(two.score(np.ones((2, 3)))).all()
    alike = Novelty.fit(np.ones((3, 3)), np.arange(3), one, one)
    assert not alike.flag(np.ones((1, 3))).any()
    assert alike.flag(np.array([[1.0, -1.0, 0.0]])).all()
    with pytest.raises(ValueError, match="at least 2"):
        Novelty.fit(np.ones((1, 3)), np.arange(1), one[:1], one[:1])


def test_two_patients_of_one_slide_each_do_not_make_everything_familiar():
    rng = np.random.default_rng(0)
    places = np.eye(32)[:3] * 20
    one, two, foreign = (place + rng.normal(size=(150, 32)) for place in places)
    names = np.repeat(["a", "b"], 150)
    found = Novelty.fit(np.concatenate([one, two]).astype(np.float32), np.arange(300), names, names)
    assert found.flag(foreign.astype(np.float32)).mean() > 0.95
    assert found.flag((places[0] + rng.normal(size=(150, 32))).astype(np.float32)).mean() < 0.3
