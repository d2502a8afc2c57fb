from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as Regression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepspot._features.bags import Bags
from deepspot.models._baselines import Ridge
from deepspot.models._baselines.ridge import RidgePath, fit_weighted
from deepspot.models._inputs import CONTEXT, Scaler, context_features

PATIENTS = np.repeat(["a", "b", "c"], 48)


@given(
    n=st.integers(3, 30), d=st.integers(1, 30), alpha=st.floats(0.1, 1e4), constant=st.booleans(), twice=st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_rotated_ridge_is_ridge_on_standardized_features(n, d, alpha, constant, twice):
    rng = np.random.default_rng(n * 100 + d)
    features, targets = rng.normal(5, 3, size=(n, d)).astype(np.float32), rng.normal(size=(n, 3))
    if constant:
        features[:, 0] = 7
    if twice:
        features[:, -1] = features[:, 0]
    expected = make_pipeline(StandardScaler(), Regression(alpha=alpha)).fit(
        features.astype(float), Scaler.fit(targets).standardize(targets)
    )
    path, new = RidgePath.fit(features, targets), rng.normal(5, 3, size=(20, d))
    if constant:
        new[:, 0] = 9  # ignored, because the feature is constant in training
    np.testing.assert_allclose(path.rotate(new) @ path.weights(alpha) + path.offset, expected.predict(new), atol=1e-4)
    coef, intercept = path.unfold(alpha)
    np.testing.assert_allclose(new @ coef + intercept, expected.predict(new), atol=1e-3)


def test_the_fitted_state_alone_makes_the_prediction(bags, targets):
    model = Ridge().fit(bags, targets)
    assert (model.coef.shape, model.coef.dtype) == ((48, 6), np.float32)
    assert (model.intercept.shape, model.intercept.dtype) == ((6,), np.float32)
    copy = Ridge(context=model.context)
    copy.coef, copy.intercept, copy.scaler = model.coef.copy(), model.intercept.copy(), model.scaler
    copy.low, copy.high = model.low.copy(), model.high.copy()
    np.testing.assert_array_equal(copy.predict(bags), model.predict(bags))
    scores = context_features(bags).clip(model.low, model.high) @ model.coef + model.intercept
    np.testing.assert_allclose(model.predict_standardized(bags), scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict(bags), model.scaler.restore(scores), atol=1e-5)


def test_a_feature_out_of_its_range_does_not_dominate(bags, targets):
    """A feature that hardly varies in training, and that another stain shifts by far."""
    rng = np.random.default_rng(1)
    spot = np.column_stack([bags.spot, 1e-3 * rng.normal(size=len(bags))]).astype(np.float32)
    known = Bags(spot, None, bags.neighbors)
    shifted = replace(known, spot=spot + rng.normal(size=(len(bags), 1)) * np.eye(17, dtype=np.float32)[16] * 10)
    clipped, raw = (Ridge(context=("spot",), alphas=(10.0,), clip=clip).fit(known, targets) for clip in (3.0, None))
    r = {
        name: np.mean([np.corrcoef(model.predict(shifted)[:, g], targets[:, g])[0, 1] for g in range(2)])
        for name, model in (("clipped", clipped), ("raw", raw))
    }
    assert r["clipped"] > 0.9 > 0.5 > r["raw"]
    np.testing.assert_allclose(clipped.low, spot.mean(axis=0) - 3 * spot.std(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(clipped.high, spot.mean(axis=0) + 3 * spot.std(axis=0), rtol=1e-4, atol=1e-6)


def test_without_clipping_it_is_linear(bags, targets):
    model = Ridge(context=("spot",), alphas=(10.0,), clip=None).fit(bags, targets)
    far = replace(bags, spot=bags.spot * 100)
    expected = model.scaler.restore(far.spot @ model.coef + model.intercept)
    np.testing.assert_allclose(model.predict(far), expected, rtol=1e-4)


@pytest.mark.parametrize("clip", [0, -1, "3"])
def test_clip_is_a_positive_number(bags, targets, clip):
    with pytest.raises((ValueError, TypeError), match="clip"):
        Ridge(clip=clip).fit(bags, targets)


def test_a_spot_of_weight_2_counts_as_two_spots(bags, targets):
    twice = np.r_[np.arange(144), np.arange(40)]
    groups = {"rows": np.arange(144), "slides": PATIENTS, "patients": PATIENTS}
    weighted = fit_weighted(bags, targets, context=CONTEXT, **groups, weights=1.0 + (np.arange(144) < 40))
    repeated = Ridge(alphas=(weighted.alpha,)).fit(bags, targets, rows=twice)
    np.testing.assert_allclose(weighted.low, repeated.low, rtol=1e-5)
    np.testing.assert_allclose(weighted.predict(bags), repeated.predict(bags), atol=1e-4)
    plain = Ridge(alphas=(weighted.alpha,)).fit(bags, targets)
    assert np.abs(plain.predict(bags) - repeated.predict(bags)).max() > 1e-3


def test_alpha_has_the_highest_r_within_held_out_slides(bags, targets):
    model = Ridge(alphas=(1.0, 100.0, 1e5)).fit(bags, targets, patients=PATIENTS)
    assert list(model.scores) == [1.0, 100.0, 1e5]
    assert model.scores[model.alpha] == max(model.scores.values())


def test_noise_gives_a_stronger_ridge(bags):
    clean = context_features(bags)[:, :3]
    noisy = clean + 20 * np.random.default_rng(0).normal(size=(144, 3))
    strength = [Ridge().fit(bags, values, patients=PATIENTS).alpha for values in (noisy, clean)]
    assert strength[0] > strength[1]


def test_shifts_between_held_out_slides_do_not_count(bags):
    # Slides of one patient differ in their level only, so r within a slide is 0.
    slides = np.repeat(["a1", "a2", "b1", "b2"], 36)
    level = np.isin(slides, ["a2", "b2"]).astype(float)
    shifted = replace(bags, spot=np.column_stack([bags.spot, 5 * level]).astype(np.float32), subspots=None)
    targets = 5 * level[:, None] + np.random.default_rng(0).normal(size=(144, 8))
    patients = np.repeat(["a", "b"], 72)
    model = Ridge(context=("spot",)).fit(shifted, targets, slides=slides, patients=patients)
    assert max(model.scores.values()) < 0.2


def test_undefined_r_counts_as_zero(bags, targets):
    half = np.column_stack([targets[:, 0], np.full(144, 2.0)])
    both, one = (Ridge(alphas=(10.0, 100.0)).fit(bags, values, patients=PATIENTS) for values in (half, half[:, :1]))
    assert both.scores[10.0] == pytest.approx(one.scores[10.0] / 2)


def test_a_single_strength_is_not_tuned(bags, targets):
    model = Ridge(alphas=(30.0,)).fit(bags, targets)
    assert model.alpha == 30
    assert model.scores == {}


def test_of_equal_strengths_the_stronger_is_chosen(bags):
    assert Ridge(alphas=(10.0, 1000.0, 100.0)).fit(bags, np.ones((144, 2))).alpha == 1000


def test_number_of_components(bags, targets):
    one, limited, plain = (Ridge(alphas=(1.0,), pca=pca).fit(bags, targets) for pca in (1, 1000, None))
    assert np.linalg.matrix_rank(one.coef, tol=1e-4) == 1
    np.testing.assert_array_equal(limited.coef, plain.coef)


def test_features_that_never_vary_predict_the_mean(bags, targets):
    flat = replace(bags, spot=np.ones_like(bags.spot), subspots=None)
    predicted = Ridge(context=("spot",)).fit(flat, targets).predict(flat)
    np.testing.assert_allclose(predicted, np.tile(targets.mean(axis=0), (144, 1)), atol=1e-5)


def test_an_unmeasured_gene_does_not_affect_others(bags, targets):
    holed = targets.copy()
    holed[:, 0] = np.nan
    model, alone = Ridge().fit(bags, holed), Ridge().fit(bags, targets[:, 1:])
    assert np.isfinite(model.predict(bags)).all()
    assert model.alpha == alone.alpha
    np.testing.assert_allclose(model.predict(bags)[:, 1:], alone.predict(bags), atol=1e-5)


def test_bad_parameters_are_errors(bags, targets):
    with pytest.raises(ValueError, match="`alphas` must be above 0, got 0"):
        Ridge(alphas=(0.0, 1.0)).fit(bags, targets)
    with pytest.raises(ValueError, match="`alphas` is empty"):
        Ridge(alphas=()).fit(bags, targets)
    with pytest.raises(ValueError, match="`pca` must be at least 1"):
        Ridge(pca=0).fit(bags, targets)
    model = Ridge(context=("spot",)).fit(bags, targets)
    with pytest.raises(ValueError, match="fitted to 16 features, but the bags have 3"):
        model.predict(replace(bags, spot=bags.spot[:, :3], subspots=None))


def test_a_failed_fit_leaves_the_model_unchanged(bags, targets):
    model = Ridge(alphas=(1.0,)).fit(bags, targets)
    before = model.predict(bags)
    with pytest.raises(ValueError, match="Embed with"):
        model.fit(replace(bags, subspots=None), targets)
    np.testing.assert_array_equal(model.predict(bags), before)
