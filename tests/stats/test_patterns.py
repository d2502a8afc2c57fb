"""Number of patterns, and agreement beyond the first of them."""

import numpy as np
import pytest
from scipy.stats import zscore

from deepspot._stats.metrics import pearson
from deepspot._stats.patterns import (
    beyond_first_axis,
    compare_patterns,
    distinct_genes,
    effective_patterns,
    first_axis,
    gene_agreement,
)

N = 400


@pytest.fixture(scope="module")
def patterns():
    """Four orthonormal patterns with mean 0."""
    rng = np.random.default_rng(0)
    centered = rng.normal(size=(N, 4))
    return np.linalg.qr(centered - centered.mean(axis=0))[0]


def test_effective_number_counts_patterns_and_not_genes(patterns):
    assert effective_patterns(np.repeat(patterns[:, :1], 30, axis=1)) == pytest.approx(1)
    assert effective_patterns(np.repeat(patterns, 5, axis=1)) == pytest.approx(4)
    # Half of the genes have one pattern, the others one each of two: (2 + 1 + 1)² / (4 + 1 + 1).
    assert effective_patterns(patterns[:, [0, 0, 1, 2]]) == pytest.approx(16 / 6)


def test_effective_number_does_not_depend_on_scale_and_leaves_out_constant_genes(patterns):
    scaled = patterns * [1, 100, 0.01, 3] + 7
    assert effective_patterns(np.column_stack([scaled, np.ones(N)])) == pytest.approx(4)
    assert np.isnan(effective_patterns(np.ones((N, 3))))


def test_a_map_of_the_first_axis_has_high_r_and_none_beyond(patterns):
    """Ten genes share an axis, and each has its own part: a prediction of the axis alone is not gene-specific."""
    rng = np.random.default_rng(1)
    axis, own = patterns[:, :1] * np.sqrt(N), rng.normal(size=(N, 10))
    measured = axis + own
    predicted = axis + 0.01 * rng.normal(size=own.shape)
    assert pearson(predicted, measured).mean() > 0.6
    assert abs(beyond_first_axis(predicted, measured).mean()) < 0.1
    assert beyond_first_axis(axis + 0.3 * own, measured).mean() > 0.75


def test_r_beyond_is_the_partial_correlation_given_the_axis(patterns):
    rng = np.random.default_rng(2)
    measured = patterns[:, :1] * np.sqrt(N) + rng.normal(size=(N, 6))
    predicted = measured + rng.normal(size=measured.shape)
    scores = first_axis(measured)[:, 0]
    r_ps = pearson(predicted, np.repeat(scores[:, None], 6, axis=1))
    r_ms = pearson(measured, np.repeat(scores[:, None], 6, axis=1))
    partial = (pearson(predicted, measured) - r_ps * r_ms) / np.sqrt((1 - r_ps**2) * (1 - r_ms**2))
    np.testing.assert_allclose(beyond_first_axis(predicted, measured), partial, atol=1e-9)


def test_r_beyond_is_nan_where_nothing_is_left(patterns):
    measured = np.column_stack([patterns[:, [0, 0, 0, 1]], np.ones(N)])
    predicted = np.column_stack([patterns[:, [0, 1, 2, 1]], patterns[:, 2]])
    r = beyond_first_axis(predicted, measured)
    assert np.isnan(r[:3]).all()  # of these genes, the axis is all that was measured
    assert r[3] == pytest.approx(1)
    assert np.isnan(r[4])
    assert np.isnan(beyond_first_axis(predicted[:2], measured[:2])).all()


def test_r_beyond_is_0_where_nothing_is_left_of_the_prediction(patterns):
    measured = patterns[:, [0, 0, 0, 1, 2]]
    predicted = np.column_stack([measured[:, :3], np.ones(N), patterns[:, 0]])
    np.testing.assert_array_equal(beyond_first_axis(predicted, measured)[3:], 0)


def test_gene_agreement_compares_pairs(patterns):
    rng = np.random.default_rng(3)
    measured = patterns @ rng.normal(size=(4, 20))
    assert gene_agreement(measured * 3 + 1, measured) == pytest.approx(1)
    assert abs(gene_agreement(rng.normal(size=measured.shape), measured)) < 0.3
    assert np.isnan(gene_agreement(measured[:, :2], measured[:, :2]))
    assert np.isnan(gene_agreement(np.repeat(measured[:, :1], 20, axis=1), measured))


def test_distinct_genes_have_different_patterns(patterns):
    values = np.column_stack([patterns[:, [0, 0, 1, 0, 2]] * [1, 5, 1, 1, 100], np.ones(N)])
    values[:, 1] += 1e-3 * patterns[:, 3]
    weight = np.array([0.3, 0.5, 0.4, 0.2, 0.1, 0.9])
    # The constant gene is last; genes 0 and 3 repeat gene 1, and the scale of a gene does not count.
    assert distinct_genes(values, weight, 3) == [1, 2, 4]
    assert sorted(distinct_genes(values, weight, 100)) == list(range(6))
    assert distinct_genes(values, weight, 100)[-1] == 5


@pytest.mark.parametrize("n", [10, N])  # fewer and more spots than genes
def test_sums_equal_those_over_all_pairs(n):
    rng = np.random.default_rng(4)
    measured = rng.normal(size=(n, 3)) @ rng.normal(size=(3, 25)) + rng.normal(size=(n, 25))
    predicted = measured + rng.normal(size=measured.shape)
    a, b = (np.corrcoef(values.T)[np.triu_indices(25, 1)] for values in (predicted, measured))
    assert gene_agreement(predicted, measured) == pytest.approx(np.corrcoef(a, b)[0, 1])
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(measured.T))
    assert effective_patterns(measured) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    left = np.linalg.svd(zscore(measured), full_matrices=False)[0][:, 0]
    assert abs(left @ first_axis(measured)[:, 0]) == pytest.approx(1)


def test_comparison_leaves_out_genes_that_were_measured_without_variation(patterns):
    measured = np.column_stack([patterns, np.zeros(N)])
    found = compare_patterns(np.column_stack([patterns, patterns[:, 0]]), measured)
    assert found["patterns_predicted"] == pytest.approx(4)
    assert found["patterns_measured"] == pytest.approx(4)


def test_unknown_spots_and_genes_are_left_out(patterns):
    rng = np.random.default_rng(5)
    measured = patterns @ rng.normal(size=(4, 12)) + 0.02 * rng.normal(size=(N, 12))
    predicted = measured + 0.05 * rng.normal(size=measured.shape)
    holes, guess = measured.copy(), predicted.copy()
    holes[:7], holes[:, 3], guess[20, 5] = np.nan, np.nan, np.nan
    kept = np.delete(np.arange(12), [3, 5])
    expected = np.full(12, np.nan)
    expected[kept] = beyond_first_axis(predicted[7:][:, kept], measured[7:][:, kept])
    np.testing.assert_allclose(beyond_first_axis(guess, holes), expected)
    assert compare_patterns(guess, holes) == compare_patterns(predicted[7:][:, kept], measured[7:][:, kept])
