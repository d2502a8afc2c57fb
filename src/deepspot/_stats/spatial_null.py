"""Spatial null model by Moran spectral randomization: same spatial smoothness, random positions.

A gene is decomposed into eigenvectors of the graph of neighboring spots, and blocks of 2, 4, 8, … eigenvectors of
similar wavelength are rotated at random. This preserves the sizes of patches and changes their positions.
Wagner and Dray, Methods in Ecology and Evolution 2015. Tests of markers and of the registration use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import issparse

from deepspot._core.logging import bar
from deepspot._spatial.transforms import pitch_px

LARGEST_BLOCK = 64
EIGENVECTORS = 254  # 2 + 4 + … + 32 + 3 · 64
NEIGHBORS = 6
DENSE = 1000  # largest number of spots for the dense solver
GENES, DRAWS = 1000, 2000  # at a time
N_TERMS = 256  # of a random field
NOISE = (0, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 1000)  # variance, relative to that of the smooth field
SMALL = 1e-9


def spatial_eigenvectors(centers: np.ndarray, most: int = EIGENVECTORS) -> np.ndarray:
    """Return eigenvectors (n, k) of the Laplacian of the nearest-neighbor graph of spots at `centers` (n, 2).

    They are orthonormal with mean 0, longest wavelength first. On a rectangle they are cosines. k is n − 1, at most
    `most`.
    """
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh
    from sklearn.neighbors import kneighbors_graph

    n = len(centers)
    k = min(n - 1, most)
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


def surrogates(field: np.ndarray, centers: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield n fields with the spatial correlation of a centered field (spots, genes) at random positions.

    All genes are rotated equally, which preserves their correlation.
    """
    from scipy.stats import ortho_group

    vectors = spatial_eigenvectors(centers, len(centers)).astype(np.float32)
    weights = vectors.T @ field
    parts = np.split(weights, _ends(len(weights))[:-1])
    for _ in range(n):
        rotated = [
            ortho_group.rvs(len(part), random_state=rng).astype(np.float32) @ part if len(part) > 1 else part
            for part in parts
        ]
        yield vectors @ np.concatenate(rotated)


def spatial_p_values(
    X: Any, contrasts: np.ndarray, centers: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Return p-values of differences between groups of spots under the spatial null model.

    The statistic is the difference of mean ranks. A block adds to it the product of the norms of gene and contrast in
    the block and the cosine of a random angle. Wavelengths shorter than those of the eigenvectors are one more block.

    Rotations take all eigenvectors of a block as equal. But a smooth gene varies most along the longest of them, as
    does the contrast of two sides of the slide, and so the difference varies more than after rotations. It is divided
    by the ratio of its standard deviations in Gaussian random fields without and with rotations, if this is above 1.
    The range and the noise of the fields are those that fit the gene best.

    Parameters
    ----------
    X
        (n, genes), dense or sparse.
    contrasts
        (g, n), each with sum 0: positive in a group and negative in the reference.
    centers
        (n, 2) positions of the spots.
    n, rng
        Number and source of random rotations.

    Returns
    -------
    (g, genes) two-sided p-values. If no rotation is as extreme, p is an upper bound, which may be below
    1 / (n + 1). This matters for multiple testing.
    """
    vectors = spatial_eigenvectors(centers)
    size = np.diff([0, *_ends(vectors.shape[1])])
    left = len(vectors) - 1 - vectors.shape[1]
    size = np.append(size, left) if left else size
    contrast_power = _power(contrasts.T, vectors)
    field_power, ratio = _smooth_fields(centers, vectors, contrasts, contrast_power)
    cosines = _cosines(size, n, rng)
    p_values = np.empty((len(contrasts), X.shape[1]))
    starts = range(0, X.shape[1], GENES)
    with bar("Block test", total=len(starts) * len(contrasts), unit="group") as progress:
        for start in starts:
            ranks = _ranks(X[:, start : start + GENES])
            power = _power(ranks, vectors)
            inflation = np.maximum(ratio[_closest(power, field_power, size)], 1)
            for group, contrast in enumerate(contrasts):
                statistic = np.abs(contrast @ ranks) / inflation[:, group]
                scale = np.sqrt(power * contrast_power[:, group, None]).astype(np.float32)
                # Ties count as chance; float32 must not break them.
                limit = (statistic * (1 - 1e-6)).astype(np.float32)
                above = sum((np.abs(cosines[i : i + DRAWS] @ scale) >= limit).sum(axis=0) for i in range(0, n, DRAWS))
                bound = _bound(statistic, (scale.astype(float) ** 2 / size[:, None]).sum(axis=0))
                counted = (above + 1) / (n + 1)
                p_values[group, start : start + ranks.shape[1]] = np.where(bound < 1 / (n + 1), bound, counted)
                progress.update()
    return p_values


def _ends(k: int) -> list[int]:
    """Return the ends of blocks of 2, 4, 8, … of k eigenvectors."""
    ends, size = [0], 2
    while ends[-1] < k:
        ends.append(min(ends[-1] + size, k))
        size = min(2 * size, LARGEST_BLOCK)
    return ends[1:]


def _power(fields: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the sum of squares (blocks, f) of centered fields (n, f) in each block, the remainder last."""
    squares = (vectors.T @ fields) ** 2
    power = np.add.reduceat(squares, [0, *_ends(len(squares))[:-1]], axis=0)
    if vectors.shape[1] == len(vectors) - 1:
        return power
    return np.vstack([power, np.maximum((fields**2).sum(axis=0) - power.sum(axis=0), 0)])


def _smooth_fields(
    centers: np.ndarray, vectors: np.ndarray, contrasts: np.ndarray, contrast_power: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the power (f, blocks) of Gaussian random fields of several ranges and shares of noise.

    The second result is (f, g): the standard deviation of a difference of groups in these fields, relative to that
    after rotations.
    """
    from scipy.stats import norm, qmc

    size = np.diff([0, *_ends(vectors.shape[1])])
    if len(contrast_power) > len(size):
        size = np.append(size, len(vectors) - 1 - size.sum())
    random = qmc.Sobol(3, seed=0).random(N_TERMS)
    frequency = norm.ppf(np.clip(random[:, :2], SMALL, 1 - SMALL)).T
    widest, pitch = np.ptp(centers, axis=0).max(), pitch_px(centers)
    powers, ratios = [], []
    for reach in pitch * 2.0 ** np.arange(max(np.log2(max(widest, pitch) / pitch), 0) + 2):
        # Cosines of random frequency: their sum of squares is a Gaussian covariance.
        terms = np.cos(centers @ frequency / reach + 2 * np.pi * random[:, 2]) * np.sqrt(2 / N_TERMS)
        terms -= terms.mean(axis=0)
        smooth = _power(terms, vectors).sum(axis=1)
        variance = ((contrasts @ terms) ** 2).sum(axis=1)
        for noise in NOISE:
            power = smooth + noise * size
            powers.append(power)
            ratios.append((variance + noise * (contrasts**2).sum(axis=1)) / ((power / size) @ contrast_power))
    return np.array(powers), np.sqrt(ratios)


def _closest(power: np.ndarray, field_power: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the number of the random field, power (f, blocks), that fits each gene best, power (blocks, genes)."""
    mean = np.maximum(field_power, SMALL * field_power.max(axis=1, keepdims=True)) / size
    scaled = np.maximum((1 / mean) @ power, np.finfo(float).tiny)
    return np.argmin(size.sum() * np.log(scaled) + (np.log(mean) @ size)[:, None], axis=0)


def _cosines(size: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw cosines (n, blocks) of the angle between a fixed and a random direction, in blocks of given dimensions."""
    along = rng.standard_normal((n, len(size)))
    across = np.where(size > 1, rng.chisquare(np.maximum(size - 1, 1), along.shape), 0)
    return (along / np.sqrt(along**2 + across)).astype(np.float32)


def _bound(statistic: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return a Chernoff bound of the p-value: a random direction is sub-Gaussian."""
    ratio = np.divide(statistic**2, 2 * variance, out=np.zeros_like(statistic), where=variance > 0)
    return np.minimum(2 * np.exp(-ratio), 1)


def _ranks(X: Any) -> np.ndarray:
    from scipy.stats import rankdata

    ranks = rankdata(X.toarray() if issparse(X) else X, axis=0)
    return ranks - ranks.mean(axis=0)
