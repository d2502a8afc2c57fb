"""Ceiling of the correlation with noisy counts, against simulated counts with known rates."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from deepspot._stats.ceiling import ceiling, mean_of_ceiling
from deepspot._stats.metrics import pearson
from deepspot._stats.normalize import normalize


def simulated(spread, depth=20_000, n=300, genes=200):
    """Return Poisson counts and the logarithm of the true rates."""
    rng = np.random.default_rng(0)
    rates = np.exp(rng.normal(0, 1.5, genes) + spread * rng.normal(size=(n, genes)))
    rates /= rates.sum(axis=1, keepdims=True)
    return csr_matrix(rng.poisson(rates * depth)), np.log1p(1e4 * rates)


@pytest.mark.parametrize(("spread", "depth"), [(1.0, 20_000), (0.3, 20_000), (0.6, 3_000)])
def test_ceiling_is_the_r_of_the_true_rates(spread, depth):
    counts, truth = simulated(spread, depth)
    found = ceiling(counts, np.asarray(counts.sum(axis=1)).ravel())
    best = pearson(truth, normalize(counts).toarray())
    known = np.isfinite(found)
    assert known.mean() > 0.8
    assert found[known].mean() == pytest.approx(best[known].mean(), abs=0.03)
    deep = known & (np.asarray(counts.mean(axis=0)).ravel() > 20)
    np.testing.assert_allclose(found[deep], best[deep], atol=0.1)


def test_genes_that_the_depth_does_not_include():
    """As for genes outside those that all slides share: their counts are no part of the depth."""
    counts, _ = simulated(spread=0.6)
    counted = np.arange(200) >= 50
    depth = np.asarray(counts[:, 50:].sum(axis=1)).ravel()
    some = ceiling(counts, depth, counted=counted)
    np.testing.assert_allclose(some[50:], ceiling(counts[:, 50:], depth), atol=0.05)
    assert np.nanmean(some[:50]) == pytest.approx(
        np.nanmean(ceiling(counts, depth + counts[:, :50].sum(1).A1)[:50]), abs=0.05
    )


def test_genes_without_variation_have_no_ceiling():
    counts, _ = simulated(spread=0.0, depth=1000)
    assert np.isnan(ceiling(counts, np.asarray(counts.sum(axis=1)).ravel())).mean() > 0.9


def test_same_seed_same_ceiling_and_depth_of_other_genes_counts():
    counts, _ = simulated(spread=1.0, depth=3000)
    depth = np.asarray(counts.sum(axis=1)).ravel()
    np.testing.assert_array_equal(ceiling(counts, depth), ceiling(counts, depth))
    np.testing.assert_allclose(ceiling(counts[:, :20], depth), ceiling(counts, depth)[:20], atol=0.1)


def test_mean_of_ceiling():
    r, highest = np.array([0.2, 0.3, np.nan, 0.9]), np.array([0.4, 0.6, 0.5, np.nan])
    assert mean_of_ceiling(r, highest) == pytest.approx(0.5)
    assert np.isnan(mean_of_ceiling(r[2:], highest[2:]))
