from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import softmax

CLASSES = ("tumour", "lymphoid", "stroma", "necrosis")
SHARES = (0.36, 0.20, 0.32, 0.12)
PITCH_UM = 100.0
DIAMETER_UM = 55.0
MARGIN_UM = 170.0
GRID_UM = 10.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """The truth about one slide, as maps on a grid of 10 µm; positions are (x, y) in µm from the slide's corner.

    Attributes
    ----------
    composition
        Shares of the tissue classes, (4, h, w); they sum to 1 everywhere, on glass too.
    edge_um
        Signed distance to the edge of the tissue, (h, w); positive inside.
    across_um
        Coordinate across the fibres of the stroma, (h, w); its gradient is perpendicular to them.
    along_um
        Coordinate along the fibres, (h, w).
    """

    composition: Array
    edge_um: Array
    across_um: Array
    along_um: Array

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height of the slide."""
        height, width = self.edge_um.shape
        return width * GRID_UM, height * GRID_UM

    def fibre_angle(self, xy: Array) -> Array:
        """Direction of the fibres at positions (n, 2), in radians."""
        gradient = np.gradient(self.across_um)
        return np.arctan2(sample(gradient[0], xy), sample(gradient[1], xy)) + np.pi / 2


def hex_array(n_rows: int, n_cols: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Rows, columns and centres in µm (n, 2) of an array of spots laid out and numbered as Visium's."""
    row, position = (axis.ravel() for axis in np.indices((n_rows, n_cols)))
    col = 2 * position + row % 2
    xy = np.column_stack([col * PITCH_UM / 2, row * PITCH_UM * np.sqrt(3) / 2]) + MARGIN_UM
    return row, col, xy


def sample(grid: Array, xy: Array) -> Array:
    """Values of a map (h, w) at positions (n, 2) in µm."""
    cells = xy / GRID_UM - 0.5  # a cell's value belongs to its centre
    return map_coordinates(grid, cells[:, ::-1].T, order=1, mode="nearest")


def disc(diameter_um: float, n: int) -> Array:
    """Return `n` points (n, 2) that cover a disc around the origin evenly (a sunflower)."""
    k = np.arange(n) + 0.5
    angle = np.pi * (1 + np.sqrt(5)) * k
    return (diameter_um / 2 * np.sqrt(k / n))[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def disc_mean(grid: Array, xy: Array, diameter_um: float, n: int = 100) -> Array:
    """Mean of a map (h, w) over discs around positions (m, 2)."""
    points = (xy[:, None] + disc(diameter_um, n)).reshape(-1, 2)
    return sample(grid, points).reshape(len(xy), n).mean(axis=1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], length: float | tuple[float, float]) -> Array:
    """Random field (h, w) of mean 0 and variance 1, smooth over `length` cells."""
    field = gaussian_filter(rng.standard_normal(shape), length, mode="wrap")
    return (field - field.mean()) / field.std()


def grow_tissue(rng: np.random.Generator, xy: Array) -> Tissue:
    """Draw the tissue of one slide around the array of spots `xy` (n, 2)."""
    n_w, n_h = np.ceil((xy.max(axis=0) + MARGIN_UM) / GRID_UM).astype(int)
    shape = (int(n_h), int(n_w))
    y, x = ((axis + 0.5) * GRID_UM for axis in np.indices(shape))

    # A rounded rectangle that keeps at least 40 µm around every spot, with a wavy outline.
    low, high = xy.min(axis=0), xy.max(axis=0)
    outside = np.hypot(
        np.maximum(np.maximum(low[0] - x, x - high[0]), 0), np.maximum(np.maximum(low[1] - y, y - high[1]), 0)
    )
    edge = 75 + 14 * np.clip(smooth_noise(rng, shape, 7), -2.3, 2.3) - outside

    # Large domains with nests and strands inside them.
    logits = np.stack([smooth_noise(rng, shape, 11) + 0.45 * smooth_noise(rng, shape, 4) for _ in CLASSES]) * 4.0
    inside = edge > 0
    for _ in range(20):  # every slide holds every class, in about the same shares
        shares = softmax(logits, axis=0)[:, inside].mean(axis=1)
        logits += np.log(np.asarray(SHARES) / shares)[:, None, None]

    angle = rng.uniform(0, np.pi)
    bend = 55 * smooth_noise(rng, shape, 13) + 6 * smooth_noise(rng, shape, 3)
    return Tissue(
        composition=softmax(logits, axis=0),
        edge_um=edge,
        across_um=x * np.cos(angle) + y * np.sin(angle) + bend,
        along_um=y * np.cos(angle) - x * np.sin(angle),
    )
