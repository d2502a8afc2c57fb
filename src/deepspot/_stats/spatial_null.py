"""Spatial null model by Moran spectral randomization: same spatial smoothness, random positions.

A gene is decomposed into eigenvectors of the graph of neighboring spots, and blocks of 2, 4, 8, … eigenvectors of
similar wavelength are rotated at random. This preserves the sizes of patches and changes their positions.
Wagner and Dray, Methods in Ecology and Evolution 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import issparse

BLOCKS = 7  # of 2, 4, 8, …, 128 eigenvectors: 254 together
NEIGHBORS = 6
DENSE = 1000  # largest number of spots for the dense solver
GENES, DRAWS = 1000, 500  # at a time


def spatial_eigenvectors(centers: np.ndarray) -> np.ndarray:
    """Return eigenvectors (n, k) of the Laplacian of the nearest-neighbor graph of spots at `centers` (n, 2).

    They are orthonormal with mean 0, longest wavelength first. On a rectangle they are cosines. k is n − 1, at most
    254.
    """
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh
    from sklearn.neighbors import kneighbors_graph

    n = len(centers)
    k = min(n - 1, 2 ** (BLOCKS + 1) - 2)
    near = kneighbors_graph(centers, min(NEIGHBORS, n - 1))
    graph = laplacian(near.maximum(near.T))
    if n <= DENSE:
        vectors = eigh(graph.toarray(), subset_by_index=[0, k])[1]
    else:
        start = np.random.default_rng(0).standard_normal(n)
        value, vectors = eigsh(graph.tocsc(), k=k + 1, sigma=-1e-3, v0=start)
        vectors = vectors[:, np.argsort(value)]
    # One of them is constant. On tissue in pieces it is mixed with others that are constant on each piece.
    vectors = np.delete(vectors, np.abs(vectors.sum(axis=0)).argmax(), axis=1)
    return np.linalg.qr(vectors - vectors.mean(axis=0))[0]


def spatial_p_values(
    X: Any, contrasts: np.ndarray, eigenvectors: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Return p-values of differences between groups of spots under the spatial null model.

    The statistic is the difference of mean ranks. The contrast is rotated instead of the genes, which is equivalent and
    needs one matrix product for all genes. Wavelengths shorter than those of the eigenvectors are one more block.

    Parameters
    ----------
    X
        (n, genes), dense or sparse.
    contrasts
        (g, n), each with sum 0: positive in a group and negative in the reference.
    eigenvectors
        (n, k), from `spatial_eigenvectors`.
    n, rng
        Number and source of random rotations.

    Returns
    -------
    (g, genes) two-sided p-values. If no rotation is as extreme, p is an upper bound, which may be below
    1 / (n + 1). This matters for multiple testing.
    """
    weights = contrasts @ eigenvectors
    rest = _rest(contrasts.T, eigenvectors, weights.T)
    spreads = [_spread(weight, short, len(eigenvectors)) for weight, short in zip(weights, rest, strict=True)]
    draws = [list(_rotations(spread, n, rng)) for spread in spreads]
    p_values = np.empty((len(contrasts), X.shape[1]))
    for start in range(0, X.shape[1], GENES):
        ranks = _ranks(X[:, start : start + GENES])
        gene = eigenvectors.T @ ranks
        gene = np.vstack([gene, _rest(ranks, eigenvectors, gene)]).astype(np.float32)
        statistic = np.abs(contrasts @ ranks)
        for group, rotated in enumerate(draws):
            # Ties count as chance; float32 must not break them.
            limit = (statistic[group] * (1 - 1e-6)).astype(np.float32)
            above = sum((np.abs(part @ gene) >= limit).sum(axis=0) for part in rotated)
            bound = _bound(statistic[group], spreads[group] ** 2 @ gene.astype(float) ** 2)
            counted = (above + 1) / (n + 1)
            p_values[group, start : start + ranks.shape[1]] = np.where(bound < 1 / (n + 1), bound, counted)
    return p_values


def _blocks(k: int) -> Iterator[tuple[int, int]]:
    edges = [0]
    while edges[-1] < k:
        edges.append(min(2 * edges[-1] + 2, k))
    return pairwise(edges)


def _spread(weight: np.ndarray, short: float, n: int) -> np.ndarray:
    """Return the standard deviation (k + 1,) of a rotated contrast along each eigenvector and the remainder."""
    k = len(weight)
    spread = np.zeros(k + 1)
    for a, b in _blocks(k):
        spread[a:b] = np.linalg.norm(weight[a:b]) / np.sqrt(b - a)
    if n - 1 > k:
        spread[k] = short / np.sqrt(n - 1 - k)
    return spread


def _rotations(spread: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield random contrasts (draws, k + 1) with the same norm in each block."""
    for start in range(0, n, DRAWS):
        drawn = rng.standard_normal((min(DRAWS, n - start), len(spread)), dtype=np.float32)
        for a, b in _blocks(len(spread) - 1):
            drawn[:, a:b] *= np.sqrt(b - a) / np.linalg.norm(drawn[:, a:b], axis=1, keepdims=True)
        # Not the remainder: a component of a random direction in many dimensions is nearly normal.
        yield drawn * spread.astype(np.float32)


def _bound(statistic: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return a Chernoff bound of the p-value: a random direction is sub-Gaussian."""
    ratio = np.divide(statistic**2, 2 * variance, out=np.zeros_like(statistic), where=variance > 0)
    return np.minimum(2 * np.exp(-ratio), 1)


def _ranks(X: Any) -> np.ndarray:
    from scipy.stats import rankdata

    ranks = rankdata(X.toarray() if issparse(X) else X, axis=0)
    return ranks - ranks.mean(axis=0)


def _rest(fields: np.ndarray, eigenvectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the norm (f,) of centered fields (n, f) outside the span of the eigenvectors."""
    if eigenvectors.shape[1] == len(eigenvectors) - 1:
        return np.zeros(fields.shape[1])
    return np.sqrt(np.maximum((fields**2).sum(axis=0) - (weights**2).sum(axis=0), 0))
