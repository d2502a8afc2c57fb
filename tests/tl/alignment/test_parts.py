"""Misplaced parts of a slide."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from deepspot.tl._alignment.parts import MIN_PART, align_parts, misplaced, parts

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


def moved(slide, rows, dx, dy):
    measured, _, um = slide
    wrong = measured.copy()
    there = um[rows] + [dx * PITCH, dy * PITCH]
    wrong[rows] = measured[[int(np.abs(um - place).sum(axis=1).argmin()) for place in there]]
    return wrong


def test_parts_have_enough_spots_and_cover_the_slide(slide):
    um = slide[2]
    found = parts(um)
    assert list(found)[:4] == ["left half", "right half", "upper half", "lower half"]
    assert {"upper left quarter", "lower right quarter"} <= set(found)
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


def test_an_aligned_slide_has_no_misplaced_part(slide):
    measured, predicted, um = slide
    assert misplaced(align_parts(measured, um, predicted, um)) == []


@pytest.mark.parametrize(("half", "shift"), [("left half", (3, 0)), ("lower half", (0, -2))])
def test_a_misplaced_half_is_named_and_the_other_is_not(slide, half, shift):
    _, predicted, um = slide
    wrong = moved(slide, parts(um)[half], *shift)
    found = misplaced(align_parts(wrong, um, predicted, um))
    assert half in found
    opposite = {"left half": "right half", "lower half": "upper half"}[half]
    assert opposite not in found


def test_shuffled_counts_are_no_misplaced_part(slide):
    measured, predicted, um = slide
    shuffled = np.random.default_rng(1).permutation(measured)
    assert misplaced(align_parts(shuffled, um, predicted, um)) == []


def test_a_gene_that_is_constant_in_a_part_is_left_out_there(slide):
    measured, predicted, um = slide
    flat = measured.copy()
    flat[parts(um)["left half"], 0] = 1
    found = align_parts(flat, um, predicted, um)
    assert found["left half"].n_genes == GENES - 1
    assert found["right half"].n_genes == GENES


def test_a_part_without_prediction_is_skipped(slide):
    measured, predicted, um = slide
    known = np.setdiff1d(np.arange(len(um)), parts(um)["upper left quarter"])
    found = align_parts(measured, um, predicted[known], um[known])
    assert "upper left quarter" not in found
    assert "lower right quarter" in found
