from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .tissue import CLASSES, DIAMETER_UM, Array, Tissue, disc_mean, sample


@dataclass(frozen=True)
class Nuclei:
    """How the nuclei of one tissue class look: lengths in µm, optical densities of haematoxylin."""

    per_mm2: float
    radius: float
    spread: float  # of the radius, as a share of it
    aspect: tuple[float, float]
    irregular: float
    rim: float  # density at the nuclear membrane
    core: float  # density inside
    nucleolus: float = 0.0


LOOKS = {
    "tumour": Nuclei(3600, 5.2, 0.17, (1.0, 1.5), 0.09, rim=1.00, core=0.42, nucleolus=0.8),
    "lymphoid": Nuclei(11000, 3.1, 0.09, (1.0, 1.15), 0.03, rim=1.75, core=1.75),
    "stroma": Nuclei(950, 3.4, 0.15, (3.5, 6.0), 0.05, rim=1.25, core=1.15),
    "necrosis": Nuclei(450, 2.6, 0.30, (1.0, 1.8), 0.20, rim=0.75, core=0.65),
}


@dataclass(frozen=True)
class Cells:
    """All cells of one class: centres (n, 2) in µm, and the shapes of their nuclei, each (n,)."""

    xy: Array
    long: Array  # semi-axes in µm
    short: Array
    angle: Array
    lobes: Array  # (n, 2): strength of the 2nd and 3rd harmonic of the outline
    darkness: Array


def scatter_cells(rng: np.random.Generator, tissue: Tissue) -> dict[str, Cells]:
    """Draw the cells of every class where the tissue is of that class."""
    return {name: _scatter(rng, tissue, k, LOOKS[name]) for k, name in enumerate(CLASSES)}


def _scatter(rng: np.random.Generator, tissue: Tissue, k: int, look: Nuclei) -> Cells:
    # A jittered hexagonal lattice: cells keep their distance, as real ones do.
    step = np.sqrt(2 / np.sqrt(3) / look.per_mm2) * 1000
    width, height = tissue.size_um
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
    if CLASSES[k] == "stroma":
        angle = tissue.fibre_angle(xy) + rng.normal(0, 0.15, n)
    lobes = np.clip(rng.normal(0, look.irregular, (n, 2)), -0.3, 0.3)
    darkness = np.exp(rng.normal(0, 0.10, n))
    return Cells(xy, radius * aspect, radius / aspect, angle, lobes, darkness)


def count_cells(cells: dict[str, Cells], xy: Array) -> NDArray[np.int64]:
    """Count the drawn nuclei of each class inside every spot, (n, 4)."""
    from scipy.spatial import cKDTree

    spots = cKDTree(xy)
    counts = np.zeros((len(xy), len(CLASSES)), dtype=np.int64)
    for k, name in enumerate(CLASSES):
        if len(cells[name].xy):
            near, spot = spots.query(cells[name].xy)
            np.add.at(counts[:, k], spot[near <= DIAMETER_UM / 2], 1)
    return counts


def spot_composition(tissue: Tissue, cells: dict[str, Cells], xy: Array) -> Array:
    """Shares of the classes in the 55 µm spots, (n, 4): the area each covers, times how densely its cells lie there.

    The density is the number of nuclei really drawn over the number expected, both with four added,
    so that a class with few cells keeps its area.
    """
    area = np.column_stack([disc_mean(grid, xy, DIAMETER_UM) for grid in tissue.composition])
    per_spot = np.array([LOOKS[name].per_mm2 for name in CLASSES]) * np.pi * (DIAMETER_UM / 2000) ** 2
    crowding = (count_cells(cells, xy) + 4) / (area * per_spot + 4)
    mass = area * crowding
    return mass / mass.sum(axis=1, keepdims=True)
