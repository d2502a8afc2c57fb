"""Tissue and cells of a toy slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from scipy.special import softmax

CLASSES = ("tumor", "lymphoid", "stroma", "necrosis")
SHARES = (0.36, 0.20, 0.32, 0.12)
PITCH_UM = 100.0
DIAMETER_UM = 55.0
MARGIN_UM = 170.0
GRID_UM = 10.0
BORDER_UM = 150.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """Ground truth of a slide as maps on a grid of 10 µm; positions are (x, y) in µm from the corner of the slide."""

    composition: Array  # (4, h, w): shares of the tissue classes, with sum 1, also on glass
    edge_um: Array  # (h, w): signed distance to the edge of the tissue, positive inside
    across_um: Array  # (h, w): coordinate across the fibers of the stroma
    along_um: Array  # (h, w): coordinate along the fibers


def hex_array(n_rows: int, n_cols: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return rows, columns and centers in µm (n, 2) of a spot array as in Visium."""
    row, position = (axis.ravel() for axis in np.indices((n_rows, n_cols)))
    col = 2 * position + row % 2
    xy = np.column_stack([col * PITCH_UM / 2, row * PITCH_UM * np.sqrt(3) / 2]) + MARGIN_UM
    return row, col, xy


def sample(grid: Array, xy: Array) -> Array:
    """Interpolate a map (h, w) at positions (n, 2) in µm."""
    cells = xy / GRID_UM - 0.5  # values are at the centers of grid cells
    return map_coordinates(grid, cells[:, ::-1].T, order=1, mode="nearest")


def disc_mean(grid: Array, xy: Array, diameter_um: float, n: int = 100) -> Array:
    """Average a map (h, w) over discs around positions (m, 2), at `n` evenly distributed points."""
    k = np.arange(n) + 0.5
    angle = np.pi * (1 + np.sqrt(5)) * k
    disc = (diameter_um / 2 * np.sqrt(k / n))[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return sample(grid, (xy[:, None] + disc).reshape(-1, 2)).reshape(len(xy), n).mean(axis=1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], length: float | tuple[float, float]) -> Array:
    """Draw a random field (h, w) of mean 0 and variance 1 that is smooth over `length` cells."""
    field = gaussian_filter(rng.standard_normal(shape), length, mode="wrap")
    return (field - field.mean()) / field.std()


def grow_tissue(rng: np.random.Generator, xy: Array) -> Tissue:
    """Draw the tissue of a slide around spots `xy` (n, 2)."""
    n_w, n_h = np.ceil((xy.max(axis=0) + MARGIN_UM) / GRID_UM).astype(int)
    shape = (int(n_h), int(n_w))
    y, x = ((axis + 0.5) * GRID_UM for axis in np.indices(shape))

    # A rounded rectangle with a wavy outline and a margin of at least 40 µm around every spot.
    low, high = xy.min(axis=0), xy.max(axis=0)
    outside = np.hypot(
        np.maximum(np.maximum(low[0] - x, x - high[0]), 0), np.maximum(np.maximum(low[1] - y, y - high[1]), 0)
    )
    edge = 75 + 14 * np.clip(smooth_noise(rng, shape, 7), -2.3, 2.3) - outside

    # Large domains that contain nests and strands.
    logits = np.stack([smooth_noise(rng, shape, 11) + 0.45 * smooth_noise(rng, shape, 4) for _ in CLASSES]) * 4.0
    inside = edge > 0
    for _ in range(20):  # gives every slide about the same shares of the classes
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


@dataclass(frozen=True)
class Nuclei:
    """Appearance of the nuclei of a tissue class: lengths in µm, optical densities of hematoxylin."""

    per_mm2: float
    radius: float
    spread: float  # relative, of the radius
    aspect: tuple[float, float]
    irregular: float
    rim: float  # density at the nuclear membrane
    core: float  # density inside
    nucleolus: float = 0.0


LOOKS = {
    "tumor": Nuclei(3600, 5.2, 0.17, (1.0, 1.5), 0.09, rim=1.00, core=0.42, nucleolus=0.8),
    "lymphoid": Nuclei(11000, 3.1, 0.09, (1.0, 1.15), 0.03, rim=1.75, core=1.75),
    "stroma": Nuclei(950, 3.4, 0.15, (3.5, 6.0), 0.05, rim=1.25, core=1.15),
    "necrosis": Nuclei(450, 2.6, 0.30, (1.0, 1.8), 0.20, rim=0.75, core=0.65),
}


@dataclass(frozen=True)
class Cells:
    """Cells of a class: centers (n, 2) in µm, and shapes of the nuclei, each (n,)."""

    xy: Array
    long: Array  # semi-axes in µm
    short: Array
    angle: Array
    lobes: Array  # (n, 2): strength of the 2nd and 3rd harmonic of the outline
    darkness: Array


def scatter_cells(rng: np.random.Generator, tissue: Tissue) -> dict[str, Cells]:
    """Draw the cells of every class."""
    return {name: _scatter(rng, tissue, k, LOOKS[name]) for k, name in enumerate(CLASSES)}


def _scatter(rng: np.random.Generator, tissue: Tissue, k: int, look: Nuclei) -> Cells:
    # A jittered hexagonal grid, because cells do not overlap.
    step = np.sqrt(2 / np.sqrt(3) / look.per_mm2) * 1000
    height, width = (n * GRID_UM for n in tissue.edge_um.shape)
    row, col = np.indices((int(height / step / 0.866) + 1, int(width / step) + 1)).reshape(2, -1)
    xy = np.column_stack([(col + row % 2 / 2) * step, row * step * np.sqrt(3) / 2])
    xy += rng.normal(0, 0.17 * step, xy.shape)
    share = sample(tissue.composition[k], xy)
    inside = sample(tissue.edge_um, xy) > 8
    xy = xy[(rng.uniform(size=len(xy)) < share) & inside]

    n = len(xy)
    radius = look.radius * np.exp(rng.normal(0, look.spread, n))
    aspect = np.sqrt(rng.uniform(*look.aspect, n))
    angle = rng.uniform(0, np.pi, n)
    if CLASSES[k] == "stroma":  # along the fibers
        gradient = np.gradient(tissue.across_um)
        angle = np.arctan2(sample(gradient[0], xy), sample(gradient[1], xy)) + np.pi / 2 + rng.normal(0, 0.15, n)
    lobes = np.clip(rng.normal(0, look.irregular, (n, 2)), -0.3, 0.3)
    darkness = np.exp(rng.normal(0, 0.10, n))
    return Cells(xy, radius * aspect, radius / aspect, angle, lobes, darkness)


def spot_composition(tissue: Tissue, cells: dict[str, Cells], xy: Array) -> Array:
    """Compute shares of the classes in the 55 µm spots (n, 4): covered area times relative cell density.

    The density is the number of drawn nuclei over the expected number, with a pseudocount of four.
    """
    spots, counts = cKDTree(xy), np.zeros((len(xy), len(CLASSES)))
    for k, name in enumerate(CLASSES):
        if len(cells[name].xy):
            near, spot = spots.query(cells[name].xy)
            np.add.at(counts[:, k], spot[near <= DIAMETER_UM / 2], 1)
    area = np.column_stack([disc_mean(grid, xy, DIAMETER_UM) for grid in tissue.composition])
    per_spot = np.array([LOOKS[name].per_mm2 for name in CLASSES]) * np.pi * (DIAMETER_UM / 2000) ** 2
    crowding = (counts + 4) / (area * per_spot + 4)
    mass = area * crowding
    return mass / mass.sum(axis=1, keepdims=True)


def spot_signals(tissue: Tissue, composition: Array, xy: Array) -> Array:
    """Compute the signals of the genes (n, 5): the composition of the spot, and the tumor-lymphoid border.

    The border is the tumor share of the spot times the lymphoid share of the tissue within 150 µm, which is not visible
    inside the spot.
    """
    on_tissue = (tissue.edge_um > 0).astype(float)
    lymphoid = tissue.composition[CLASSES.index("lymphoid")] * on_tissue
    around = disc_mean(lymphoid, xy, 2 * BORDER_UM, 300) / disc_mean(on_tissue, xy, 2 * BORDER_UM, 300)
    border = 4 * composition[:, CLASSES.index("tumor")] * around
    return np.column_stack([composition, border])
