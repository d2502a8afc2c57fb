"""Misplaced parts of a slide."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from deepspot.tl._alignment.align import align
from deepspot.tl._alignment.null import Agreement
from deepspot.tl._alignment.parts import MIN_PART, _correlations, align_with_parts, misplaced, parts

SIDE, GENES, PITCH = 14, 40, 100.0


@pytest.fixture(scope="module")
def slide():
    """Smooth fields on a square array, and a poor prediction of them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    um = np.column_stack([x.ravel(), y.ravel()]) * PITCH
    fields = gaussian_filter(rng.normal(size=(GENES, SIDE, SIDE)), (0, 1.5, 1.5)).reshape(GENES, -1).T
    fields /= fields.std(axis=0)
    measured = fields + rng.normal(size=fields.shape)
    return measured, fields + 1.5 * rng.normal(size=fields.shape), um


def moved(slide, rows, where):
    measured, _, um = slide
    wrong = measured.copy()
    wrong[rows] = measured[[int(np.abs(um - place).sum(axis=1).argmin()) for place in where(um[rows])]]
    return wrong


def turned(um):
    return um.min(axis=0) + um.max(axis=0) - um


def test_parts_have_enough_spots_and_cover_the_slide(slide):
    um = slide[2]
    found = parts(um)
    assert list(found)[:4] == ["left half", "right half", "upper half", "lower half"]
    assert {"upper left quarter", "lower right quarter", "middle third", "central and lower thirds"} <= set(found)
    assert min(map(len, found.values())) >= MIN_PART
    halves = np.concatenate([found["left half"], found["right half"]])
    assert sorted(halves) == list(range(len(um)))
    assert um[found["left half"], 0].max() <= um[found["right half"], 0].min()
    assert um[found["upper half"], 1].max() <= um[found["lower half"], 1].min()


def test_small_slides_have_no_parts_and_large_ones_have_smaller_parts():
    rng = np.random.default_rng(0)
    assert parts(rng.uniform(size=(2 * MIN_PART - 1, 2))) == {}
    many = parts(rng.uniform(size=(MIN_PART * 20, 2)))
    assert len(many) > 20
    assert "part 1 of 4 from the top and 4 of 4 from the left" in many


def test_correlations_are_those_of_the_check_of_the_slide(slide):
    measured, predicted, _ = (np.asarray(values, dtype=np.float32) for values in slide)
    nearest = np.random.default_rng(0).integers(-1, len(predicted), size=(5, len(measured)))
    found = _correlations(np.stack([measured, predicted]), nearest, predicted)
    expected = Agreement(nearest, predicted)
    np.testing.assert_allclose(found, [expected.r(measured), expected.r(predicted)], atol=1e-4)


@pytest.mark.parametrize("case", ["aligned", "shuffled"])
def test_no_part_is_misplaced(slide, case):
    measured, predicted, um = slide
    if case == "shuffled":
        measured = np.random.default_rng(1).permutation(measured)
    names, spots = misplaced(measured, um, predicted, um)
    assert names == ()
    assert spots.shape == (len(um),)
    assert not spots.any()


@pytest.mark.parametrize(
    ("half", "where"),
    [
        ("left half", lambda um: um + np.array([3 * PITCH, 0])),
        ("lower half", lambda um: um - np.array([0, 2 * PITCH])),
        ("upper half", turned),
    ],
)
def test_a_misplaced_half_is_named_and_most_of_its_spots(slide, half, where):
    _, predicted, um = slide
    truth = np.zeros(len(um), dtype=bool)
    truth[parts(um)[half]] = True
    names, spots = misplaced(moved(slide, truth, where), um, predicted, um)
    assert half in names
    assert spots[truth].mean() > 0.7
    assert spots[~truth].mean() < 0.15


def test_a_part_without_prediction_is_left_out(slide):
    measured, predicted, um = slide
    known = np.setdiff1d(np.arange(len(um)), parts(um)["upper left quarter"])
    names, _ = misplaced(measured, um, predicted[known], um[known])
    assert names == ()


def test_large_slides_are_sampled(slide, monkeypatch):
    from deepspot.tl._alignment import parts as module

    monkeypatch.setattr(module, "MAX_SPOTS", 150)
    truth = np.zeros(SIDE**2, dtype=bool)
    truth[parts(slide[2])["upper half"]] = True
    _, spots = misplaced(moved(slide, truth, turned), slide[2], slide[1], slide[2])
    assert spots[truth].mean() > spots[~truth].mean() + 0.5


@pytest.fixture(scope="module")
def wide(slide):
    """Genes that share three wide patterns, and a good prediction of them."""
    um, rng = slide[2], np.random.default_rng(1)
    patterns = gaussian_filter(rng.normal(size=(3, SIDE, SIDE)), (0, 2.5, 2.5)).reshape(3, -1).T
    fields = (patterns / patterns.std(axis=0)) @ rng.normal(size=(3, GENES))
    measured, predicted = (fields + rng.normal(size=fields.shape) for _ in range(2))
    return measured, predicted, um


def mirrored(um):
    return np.column_stack([um[:, 0].min() + um[:, 0].max() - um[:, 0], um[:, 1]])


def test_a_part_that_makes_the_whole_slide_misaligned_is_named(wide):
    _, predicted, um = wide
    truth = np.zeros(len(um), dtype=bool)
    truth[parts(um)["upper half"]] = True
    counts = moved(wide, truth, mirrored)
    assert align(counts, um, predicted, um, max_shift=1).verdict == "misaligned"
    result, spots = align_with_parts(counts, um, predicted, um, max_shift=1)
    assert (result.verdict, result.misplaced) == ("partly misaligned", ("upper half",))
    np.testing.assert_array_equal(spots, truth)
    assert "not significantly" not in repr(result)


def test_spots_without_a_predicted_spot_nearby_are_not_called_misplaced(wide):
    _, predicted, um = wide
    truth = np.zeros(len(um), dtype=bool)
    truth[parts(um)["upper half"]] = True
    known = np.ones(len(um), dtype=bool)
    known[np.flatnonzero(~truth)[-2:]] = False
    counts = moved(wide, truth, mirrored)
    result, spots = align_with_parts(counts, um, predicted[known], um[known], max_shift=1)
    assert result.verdict == "partly misaligned"
    assert not spots[~known].any()


@pytest.mark.parametrize("where", [mirrored, lambda um: um + np.array([2 * PITCH, 0])])
def test_a_slide_that_is_misplaced_as_a_whole_has_no_misplaced_part(wide, where):
    _, predicted, um = wide
    everywhere = np.ones(len(um), dtype=bool)
    result, spots = align_with_parts(moved(wide, everywhere, where), um, predicted, um, max_shift=2)
    assert (result.verdict, result.misplaced, spots.any()) == ("misaligned", (), False)
