"""Genes with the same mean and standard deviation in each training slide."""

import numpy as np
import pytest

import deepspot as ds
from deepspot.models._inputs import level_slides

slide_of = np.repeat([0, 1, 2], [40, 60, 44])


def fit(bags, targets, *, level, slides=slide_of):
    training = {"epochs": 3, "max_epochs": 3, "level_slides": level}
    return ds.models.DeepSpot(network={"width": 8, "members": 1}, training=training, seed=0).fit(
        bags, targets, slides=slides, patients=slides
    )


def test_moments_of_every_slide_are_the_same(targets):
    rng = np.random.default_rng(0)
    shifted = targets * rng.uniform(0.5, 2, (3, 6))[slide_of] + rng.normal(size=(3, 6))[slide_of]
    leveled = level_slides(shifted, np.arange(144), slide_of)
    within = np.concatenate([shifted[slide_of == s] - shifted[slide_of == s].mean(axis=0) for s in range(3)])
    for slide in range(3):
        part = leveled[slide_of == slide]
        np.testing.assert_allclose(part.mean(axis=0), shifted.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(part.std(axis=0), within.std(axis=0), rtol=1e-4)


def test_only_training_rows_count_and_repeats_count_as_given(targets):
    rows = np.concatenate([np.arange(30), np.arange(40, 70), np.arange(10)])
    leveled = level_slides(targets, rows, slide_of)
    others = np.setdiff1d(np.arange(144), rows)
    np.testing.assert_array_equal(leveled[others], targets[others])
    means = [leveled[rows[slide_of[rows] == slide]].mean(axis=0) for slide in (0, 1)]
    np.testing.assert_allclose(means[0], means[1], rtol=1e-4)


def test_genes_that_are_constant_or_unmeasured_on_a_slide(targets):
    special = targets.copy()
    special[slide_of == 0, 0] = 3
    special[slide_of == 1, 1] = np.nan
    leveled = level_slides(special, np.arange(144), slide_of)
    np.testing.assert_allclose(leveled[slide_of == 0, 0], special[:, 0].mean(), rtol=1e-5)
    assert np.isnan(leveled[slide_of == 1, 1]).all()
    assert np.isfinite(leveled[slide_of != 1, 1]).all()


def test_one_slide_is_not_changed(bags, targets):
    one = np.zeros(144, dtype=int)
    assert level_slides(targets, np.arange(144), one) is targets
    models = [fit(bags, targets, level=level, slides=one) for level in (True, False)]
    np.testing.assert_array_equal(*(model.predict(bags) for model in models))


@pytest.mark.parametrize("level", [True, False])
def test_shifts_between_slides_are_not_learned(bags, targets, level):
    """A gene whose level on a slide has no relation to the image is predicted as if the levels were the same."""
    shifted = targets + np.array([0, 10, -10])[slide_of][:, None]
    plain, other = (fit(bags, values, level=level).predict(bags) for values in (targets, shifted))
    r = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(plain.T, other.T, strict=True)])
    assert (r > 0.95) == level
