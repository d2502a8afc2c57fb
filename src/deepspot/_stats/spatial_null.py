"""Spatial null model by Moran spectral randomization: genes as smooth over the tissue as these, but placed elsewhere.

A gene is written in the eigenvectors of the graph of neighboring spots, and blocks of eigenvectors of similar
wavelength (2, 4, 8, … of them) are rotated at random within themselves. So patches keep their sizes but lie elsewhere.
Wagner and Dray, Methods in Ecology and Evolution 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import issparse

# Blocks of 2, 4, 8, …, 128 eigenvectors: together 254.
BLOCKS = 7
NEIGHBORS = 6
DENSE = 1000
GENES, DRAWS = 1000, 500


def spatial_eigenvectors(centers: np.ndarray) -> np.ndarray:
    """Eigenvectors (n, k) of the Laplacian of the graph that joins spots at `centers` (n, 2) with their nearest ones.

    They are orthonormal with mean 0, from the longest wavelength on: cosines on a rectangle, and what takes their place
    on any other tissue. k is n − 1, but 254 at most.
    """
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh
    from sklearn.neighbors import kneighbors_graph

    n = len(centers)
    k = min(n - 1, 2 ** (BLOCKS + 1) - 2)
    near = kneighbors_graph(centers, min(NEIGHBORS, n - 1))
    graph = laplacian(near.maximum(near.T))  # a spot is near another as soon as one of the two says so
    if n <= DENSE:
        found = eigh(graph.toarray(), subset_by_index=[0, k])[1]
    else:
        start = np.random.default_rng(0).standard_normal(n)
        value, found = eigsh(graph.tocsc(), k=k + 1, sigma=-1e-3, v0=start)
        found = found[:, np.argsort(value)]
    # One of them is the mean. Where the tissue is in pieces it is mixed with others that are flat on every piece.
    found = np.delete(found, np.abs(found.sum(axis=0)).argmax(), axis=1)
    return np.linalg.qr(found - found.mean(axis=0))[0]


def spatial_p_values(
    X: Any, contrasts: np.ndarray, eigenvectors: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Probability that chance makes a gene differ between groups of spots as much as it does.

    The statistic is the difference of the mean ranks. Rotating the contrast is the same as rotating a gene, and needs
    one product of matrices for all genes. What is shorter than all eigenvectors is one block more.

    Parameters
    ----------
    X
        (n, genes), dense or sparse.
    contrasts
        (g, n), each of sum 0: positive in a group and negative in what it is compared with.
    eigenvectors
        (n, k), of `spatial_eigenvectors`.
    n, rng
        Number of random rotations, and where they come from.

    Returns
    -------
    (g, genes) two-sided, counted among the rotations. What is too rare for that is a bound that holds for all of them,
    so that corrections for many genes are not stopped by 1 / (n + 1).
    """
    weights = contrasts @ eigenvectors
    rest = _rest(contrasts.T, eigenvectors, weights.T)
    spreads = [_spread(weight, short, len(eigenvectors)) for weight, short in zip(weights, rest, strict=True)]
    draws = [list(_rotations(spread, n, rng)) for spread in spreads]
    found = np.empty((len(contrasts), X.shape[1]))
    for start in range(0, X.shape[1], GENES):
        ranks = _ranks(X[:, start : start + GENES])
        gene = eigenvectors.T @ ranks
        gene = np.vstack([gene, _rest(ranks, eigenvectors, gene)]).astype(np.float32)
        seen = np.abs(contrasts @ ranks)
        for group, rotated in enumerate(draws):
            # Ties count as chance: float32 must not break them.
            limit = (seen[group] * (1 - 1e-6)).astype(np.float32)
            above = sum((np.abs(part @ gene) >= limit).sum(axis=0) for part in rotated)
            bound = _bound(seen[group], spreads[group] ** 2 @ gene.astype(float) ** 2)
            counted = (above + 1) / (n + 1)
            found[group, start : start + ranks.shape[1]] = np.where(bound < 1 / (n + 1), bound, counted)
    return found


def _blocks(k: int) -> Iterator[tuple[int, int]]:
    edges = [0]
    while edges[-1] < k:
        edges.append(min(2 * edges[-1] + 2, k))
    return pairwise(edges)


def _spread(weight: np.ndarray, short: float, n: int) -> np.ndarray:
    """Standard deviation (k + 1,) of a rotated contrast along every eigenvector, and along what is shorter."""
    k = len(weight)
    spread = np.zeros(k + 1)
    for a, b in _blocks(k):
        spread[a:b] = np.linalg.norm(weight[a:b]) / np.sqrt(b - a)
    if n - 1 > k:
        spread[k] = short / np.sqrt(n - 1 - k)
    return spread


def _rotations(spread: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Contrasts (draws, k + 1) that keep what they weigh in every block."""
    for start in range(0, n, DRAWS):
        drawn = rng.standard_normal((min(DRAWS, n - start), len(spread)), dtype=np.float32)
        for a, b in _blocks(len(spread) - 1):
            drawn[:, a:b] *= np.sqrt(b - a) / np.linalg.norm(drawn[:, a:b], axis=1, keepdims=True)
        # The shortest ones stay as they are: an angle between directions in many dimensions is as good as normal.
        yield drawn * spread.astype(np.float32)


def _bound(seen: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """What the probability cannot exceed (Chernoff): a random direction is sub-Gaussian with its own variance."""
    ratio = np.divide(seen**2, 2 * variance, out=np.zeros_like(seen), where=variance > 0)
    return np.minimum(2 * np.exp(-ratio), 1)


def _ranks(X: Any) -> np.ndarray:
    from scipy.stats import rankdata

    ranks = rankdata(X.toarray() if issparse(X) else X, axis=0)
    return ranks - ranks.mean(axis=0)


def _rest(fields: np.ndarray, eigenvectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Length (f,) of what centered fields (n, f) hold besides the eigenvectors."""
    if eigenvectors.shape[1] == len(eigenvectors) - 1:
        return np.zeros(fields.shape[1])
    return np.sqrt(np.maximum((fields**2).sum(axis=0) - (weights**2).sum(axis=0), 0))
