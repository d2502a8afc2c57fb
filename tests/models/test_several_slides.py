"""Training on several slides: leveled genes, and weights by depth."""

import numpy as np
import pytest

import deepspot as ds
from deepspot.models._inputs import level_slides, slide_weights

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


def test_a_gene_in_a_few_spots_of_a_slide_is_not_enlarged_much(targets):
    rare = targets.copy()
    rare[slide_of == 0, 0] = 0
    rare[5, 0] = 0.5
    leveled = level_slides(rare, np.arange(144), slide_of)
    within = np.concatenate([rare[slide_of == s, 0] - rare[slide_of == s, 0].mean() for s in range(3)]).std()
    assert rare[slide_of == 0, 0].std() < within / 10
    assert np.ptp(leveled[slide_of == 0, 0]) == pytest.approx(4 * 0.5, rel=1e-4)


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


def fit_weighted(bags, targets, depth, *, weigh=True, slides=slide_of):
    training = {"epochs": 3, "max_epochs": 3, "weight_slides": weigh}
    model = ds.models.DeepSpot(network={"width": 8, "members": 1}, training=training, seed=0)
    return model.fit(bags, targets, slides=slides, patients=slides, depth=depth)


def test_weights_are_square_roots_of_median_depths():
    depth = np.array([100, 400, 900])[slide_of] * np.tile([0.5, 1, 1, 1.5], 36)
    weights = slide_weights(depth, np.arange(144), slide_of)
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(weights / weights[0], np.array([1, 2, 3])[slide_of], rtol=1e-5)


def test_weights_are_1_on_average_over_repeated_training_rows_and_ignore_unmeasured_spots():
    depth = np.where(slide_of == 0, 100.0, 900.0)
    depth[5] = np.nan
    rows = np.r_[np.arange(5), np.arange(5), 100]
    weights = slide_weights(depth, rows, slide_of)
    assert weights[rows].mean() == pytest.approx(1)
    assert weights[100] / weights[0] == pytest.approx(3)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["ridge", "network"])
def test_a_noisy_shallow_slide_counts_less(bags, targets, share, monkeypatch):
    """The deeper the other slides are, the nearer is the prediction to one that learned from them alone."""
    from deepspot.models._confidence import gate

    monkeypatch.setattr(gate, "SHARES", dict.fromkeys(gate.SHARES, share))
    noisy = targets.copy()
    noisy[slide_of == 0] = np.random.default_rng(0).permutation(noisy[slide_of == 0])
    deep = np.flatnonzero(slide_of > 0)
    alone = fit_weighted(bags, targets, np.full(144, 100.0))
    errors = []
    for depth in (100, 10_000, 1_000_000):
        model = fit_weighted(bags, noisy, np.where(slide_of == 0, 100.0, depth))
        errors.append(np.abs(model.predict(bags) - alone.predict(bags))[deep].mean())
    assert errors[0] > errors[1] > errors[2]


def test_depth_has_no_effect_on_slides_of_equal_depth_or_without_the_option(bags, targets):
    depth = np.where(slide_of == 0, 100.0, 10_000.0)
    plain = fit_weighted(bags, targets, None)
    equal, off = fit_weighted(bags, targets, np.full(144, 100.0)), fit_weighted(bags, targets, depth, weigh=False)
    np.testing.assert_array_equal(plain.predict(bags), off.predict(bags))
    np.testing.assert_allclose(plain.predict(bags), equal.predict(bags), rtol=1e-5)
    assert np.abs(fit_weighted(bags, targets, depth).predict(bags) - plain.predict(bags)).max() > 1e-3


@pytest.mark.parametrize("wrong", [0, np.nan, -1])
def test_every_training_slide_needs_a_depth(bags, targets, wrong):
    depth = np.where(slide_of == 1, wrong, 100.0)
    with pytest.raises(ValueError, match=r"median of `depth` must be above 0 in every training slide.* in slide '1'"):
        fit_weighted(bags, targets, depth)
    model = ds.models.DeepSpot(network={"width": 8, "members": 1}, training={"epochs": 1, "gate": "off"}, seed=0)
    model.fit(bags, targets, depth=depth, slides=slide_of, rows=np.flatnonzero(slide_of != 1))
    with pytest.raises(ValueError, match="must have the same number of rows"):
        model.fit(bags, targets, depth=depth[1:])
