"""Spatial patterns of genes: how many there are, and the agreement beyond the first of them."""

from __future__ import annotations

import numpy as np

from .metrics import pearson, varies

SMALL = 1e-6


def beyond_first_axis(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return Pearson's r (genes,) of two (n, genes) matrices without the first principal component of the measurement.

    The component is that of the standardized measured genes. Its score of the spots is regressed out of each gene of
    both matrices. 0 for a gene of which nothing is left in the prediction, such as a constant one. NaN for a gene of
    which nothing is left in the measurement, or that is not known in all spots.
    """
    r = np.full(measured.shape[1], np.nan)
    rows, genes = _complete(predicted, measured)
    if len(genes) and len(rows) > 2:
        values = [part[np.ix_(rows, genes)].astype(np.float64) for part in (predicted, measured)]
        axis = first_axis(values[1])
        before = [part - part.mean(axis=0) for part in values]
        after = [part - axis @ (axis.T @ part) for part in before]
        # What is left of a gene that is proportional to the component is rounding error.
        in_prediction, in_measurement = (
            rest.std(axis=0) > SMALL * whole.std(axis=0) for rest, whole in zip(after, before, strict=True)
        )
        r[genes] = np.select([~in_measurement, ~in_prediction], [np.nan, 0.0], pearson(*after))
    return r


def first_axis(values: np.ndarray) -> np.ndarray:
    """Return the scores (n, 1), of length 1, of the first principal component of genes (n, genes) that vary."""
    from scipy.sparse.linalg import svds
    from scipy.stats import zscore

    z = zscore(values.astype(np.float64))
    if min(z.shape) < 2:
        return z[:, :1] / np.linalg.norm(z[:, :1])
    # The default start is random.
    start = np.random.default_rng(0).normal(size=min(z.shape))
    return svds(z, k=1, v0=start, return_singular_vectors="u")[0]


def compare_patterns(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Return the effective number of patterns of two (n, genes) matrices, and the agreement of their gene pairs."""
    known = np.ix_(*_complete(predicted, measured))
    a, b = predicted[known], measured[known]
    return {
        "patterns_predicted": effective_patterns(a),
        "patterns_measured": effective_patterns(b),
        "gene_agreement": gene_agreement(a, b),
    }


def effective_patterns(values: np.ndarray) -> float:
    """Return the effective number of patterns of genes (n, genes): the participation ratio of their correlation matrix.

    It is (Σ λ)² / Σ λ² over the eigenvalues λ: 1 if all genes have the same pattern, and k if k patterns of equal
    strength are not correlated. Constant genes are left out; NaN if all are.
    """
    from scipy.stats import zscore

    vary = varies(values)
    if not vary.any():
        return float("nan")
    z = zscore(values[:, vary].astype(np.float64))
    return float(z.shape[1] ** 2 / _sum_of_products(z, z))


def distinct_genes(values: np.ndarray, weight: np.ndarray, n: int) -> list[int]:
    """Return the columns of n genes of values (n, genes) with different patterns, in order of choice.

    By QR decomposition with column pivoting: the gene with the highest `weight` (genes,) is first, and the next is the
    one with the largest weighted part that the genes before do not explain. Constant genes come last.
    """
    from scipy.linalg import qr

    deviations = values - values.mean(axis=0, dtype=np.float64)
    std = deviations.std(axis=0)
    scaled = np.divide(deviations * np.maximum(weight, 0), std, out=np.zeros_like(deviations), where=std > SMALL)
    return qr(scaled, mode="r", pivoting=True)[1][:n].tolist()


def gene_agreement(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Return Pearson's r between the correlations of all pairs of genes in two (n, genes) matrices.

    Genes that are constant in one of them are left out. NaN if fewer than three are left, or all pairs correlate
    equally.
    """
    from scipy.stats import zscore

    vary = varies(predicted) & varies(measured)
    genes = int(vary.sum())
    if genes < 3:
        return float("nan")
    a, b = (zscore(values[:, vary].astype(np.float64)) for values in (predicted, measured))
    # Sums over all pairs of different genes; the correlation of a gene with itself is 1.
    pairs = genes * (genes - 1)
    sum_a, sum_b = ((z.sum(axis=1) ** 2).sum() / len(z) - genes for z in (a, b))
    products = np.array([_sum_of_products(a, b), _sum_of_products(a, a), _sum_of_products(b, b)]) - genes
    covariance, *variances = products - np.array([sum_a * sum_b, sum_a**2, sum_b**2]) / pairs
    # Without a difference between pairs, what is left is rounding error.
    return float(covariance / np.sqrt(np.prod(variances))) if min(variances) > SMALL * pairs else float("nan")


def _sum_of_products(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the products of two correlation matrices, given standardized genes (n, genes).

    The smaller of the possible matrices is computed: between spots, or between genes.
    """
    n, genes = a.shape
    if n <= genes:
        return float(((a @ b.T) ** 2).sum()) / n**2
    return float(((a.T @ a) * (b.T @ b)).sum()) / n**2


def _complete(predicted: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the spots in which any gene is known, and the genes that are known in all of these and vary in them."""
    known = np.isfinite(predicted) & np.isfinite(measured)
    rows = np.flatnonzero(known.any(axis=1))
    return rows, np.flatnonzero(known[rows].all(axis=0) & varies(measured[rows]))
