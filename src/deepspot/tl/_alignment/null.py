"""Correlation of two expression fields under many moves, its sampling error, and permuted fields."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SMALL = 1e-9
BLOCK_PITCHES = 2.0


class Agreement:
    """Correlation of a measured field with a predicted one under each move.

    It is Pearson r over spots and genes together, with each gene scaled by its standard deviation on the slide and
    centered over the overlapping spots. If all spots overlap, it equals the mean over genes of Pearson r, otherwise
    nearly so; but it needs a few matrix products instead of a correlation for each gene and move.

    `nearest` (c, n) is the predicted spot of each measured spot, -1 if there is none; `predicted` (m, genes) is a
    standardized field.
    """

    def __init__(self, nearest: np.ndarray, predicted: np.ndarray) -> None:
        self.nearest, self.predicted = nearest, predicted
        self.kept = (nearest >= 0).astype(np.float32)
        self.count = self.kept.sum(axis=1)
        self.norm = (predicted**2).sum(axis=1)
        used = np.zeros((len(nearest), len(predicted)), dtype=np.float32)
        move, spot = np.nonzero(nearest >= 0)
        np.add.at(used, (move, nearest[move, spot]), 1)
        self.mean = used @ predicted / self.count[:, None]
        self.variance = np.maximum(used @ self.norm / self.count - (self.mean**2).sum(axis=1), SMALL)

    def r(self, measured: np.ndarray) -> np.ndarray:
        """Return the correlation (c,) with a standardized measured field (n, genes)."""
        mean, variance = self._moments(measured)
        covariance = self._pairs(measured).sum(axis=1) / self.count - (mean * self.mean).sum(axis=1)
        return covariance / np.sqrt(variance * self.variance)

    def contributions(self, measured: np.ndarray) -> np.ndarray:
        """Return the influence (c, n) of each spot on the correlation, divided by the number of spots."""
        mean, variance = self._moments(measured)
        at = np.maximum(self.nearest, 0)
        product = self._pairs(measured) - (measured @ self.mean.T).T
        product -= np.take_along_axis(mean @ self.predicted.T, at, 1)
        product += (mean * self.mean).sum(axis=1)[:, None]
        a = (measured**2).sum(axis=1) - 2 * (measured @ mean.T).T + (mean**2).sum(axis=1)[:, None]
        b = self.norm[at] - 2 * np.take_along_axis(self.mean @ self.predicted.T, at, 1)
        b += (self.mean**2).sum(axis=1)[:, None]
        scale = np.sqrt(variance * self.variance)[:, None]
        spread = (a / variance[:, None] + b / self.variance[:, None]) / 2
        influence = product / scale - self.r(measured)[:, None] * spread
        return influence * self.kept / self.count[:, None]

    def _moments(self, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = self.kept @ measured / self.count[:, None]
        variance = self.kept @ (measured**2).sum(axis=1) / self.count - (mean**2).sum(axis=1)
        return mean, np.maximum(variance, SMALL)

    def _pairs(self, measured: np.ndarray) -> np.ndarray:
        products = measured @ self.predicted.T
        return products[np.arange(len(measured)), np.maximum(self.nearest, 0)] * self.kept


def standardize(field: np.ndarray) -> np.ndarray:
    """Center and scale the genes of a field (n, genes) so that the squares of a row sum to about 1."""
    centered = field - field.mean(axis=0)
    return (centered / np.maximum(centered.std(axis=0), SMALL) / np.sqrt(field.shape[1])).astype(np.float32)


def block_noise(
    contributions: np.ndarray, centers_um: np.ndarray, pitch: float, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw errors (c, n) of the correlation by a wild bootstrap over blocks of neighboring spots.

    The random signs of the blocks are the same for all moves, so that the errors of two moves can be subtracted.
    """
    cells = np.floor((centers_um - centers_um.min(axis=0)) / (BLOCK_PITCHES * pitch)).astype(int)
    _, block = np.unique(cells, axis=0, return_inverse=True)
    signs = rng.choice(np.array([-1, 1], dtype=np.float32), size=(block.max() + 1, n))
    return contributions @ signs[block.ravel()]


def shuffles(field: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield fields with permuted spots: the null model without spatial correlation."""
    for _ in range(n):
        yield rng.permutation(field)
