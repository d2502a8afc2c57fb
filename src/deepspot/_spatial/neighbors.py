from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from deepspot._core.logging import logger
from deepspot.errors import InputError

from .geometry import NeighborRule, spot_grid
from .transforms import pitch_px

# Default radius in distances between spots: the first ring of a hexagonal or square array, including diagonals.
RINGS = 1.5
# An array has the pitch of the training up to this share. The diagonals of a square array are within RINGS up to 6 %.
SAME_PITCH = 0.05
# A spot takes the place of a trained neighbor up to this distance from it: half the diagonal of a cell of a square
# array, so that there is one in every array, or a quarter of the trained pitch, as cells are not on an array.
HALF_DIAGONAL, STAND_IN = 0.71, 0.25
# Spots form an array if nine tenths have a spot at this share of the median distance to the nearest one, or farther.
REGULAR = 0.8


def find_neighbors(centers_um: np.ndarray, rule: NeighborRule, array: np.ndarray | None = None) -> csr_matrix:
    """Find the neighbors of every spot: boolean matrix (n, n) without a diagonal; row i marks the neighbors of spot i.

    `centers_um` (n, 2) are in µm; `array` (n, 2) are rows and columns in the spot array, required by ``"box"`` rules.

    If the rule knows the array of the training, and these spots have another pitch, the neighbors are the spots nearest
    to where they are in that array. On a denser array, the nearest spots would be nearer than in training.
    """
    return NeighborFinder(centers_um, rule, array).of(np.arange(len(centers_um)))


class NeighborFinder:
    """Find the neighbors of a part of the spots, for large slides. Arguments as of :func:`find_neighbors`."""

    def __init__(self, centers_um: np.ndarray, rule: NeighborRule, array: np.ndarray | None = None) -> None:
        from scipy.spatial import cKDTree

        check_array(rule, array)
        self.centers, self.rule = centers_um, rule
        self.offsets, self.farthest = _offsets(centers_um, rule)
        self.points = centers_um if rule.kind == "radius" or array is None or self.offsets is not None else array
        self.tree = cKDTree(self.points)

    def of(self, rows: np.ndarray) -> csr_matrix:
        """Find the neighbors of some spots: boolean matrix (rows, n)."""
        if self.offsets is not None:
            return self._at(self.offsets, rows)
        points, reach = self.points[rows], self.rule.reach
        if self.rule.kind == "radius":
            # The radius may contain thousands of spots: limit it to the last one that is kept, and its ties.
            count = min(self.rule.cap + 1, len(self.centers))
            farthest = self.tree.query(points, k=[count])[0][:, 0]
            near = self.tree.query_ball_point(points, np.minimum(reach, farthest * (1 + 1e-9)))
        else:  # a box of the array is a ball in the Chebyshev metric
            near = self.tree.query_ball_point(points, reach, p=np.inf)
        source = np.repeat(np.arange(len(rows)), [len(spots) for spots in near])
        target = np.fromiter((spot for spots in near for spot in spots), dtype=np.int64, count=len(source))
        other = target != rows[source]
        source, target = source[other], target[other]
        distance = np.linalg.norm(self.centers[rows[source]] - self.centers[target], axis=1)
        order = np.lexsort((target, distance, source))  # smaller indices first among ties: results are reproducible
        source, target = source[order], target[order]
        kept = np.arange(len(source)) - np.searchsorted(source, source, side="left") < self.rule.cap
        source, target = source[kept], target[kept]
        return csr_matrix((np.ones(len(source), dtype=bool), (source, target)), shape=(len(rows), len(self.centers)))

    def _at(self, offsets: np.ndarray, rows: np.ndarray) -> csr_matrix:
        """Find the spots nearest to offsets (k, 2) in µm from some spots."""
        wanted = self.centers[rows][:, None] + offsets
        distance, nearest = self.tree.query(wanted, k=2, distance_upper_bound=self.farthest)
        own = nearest[..., 0] == rows[:, None]  # on a coarser array, a spot may be the nearest one itself
        distance, nearest = (np.where(own, found[..., 1], found[..., 0]) for found in (distance, nearest))
        source, column = np.nonzero(np.isfinite(distance))
        target = nearest[source, column]  # a spot that is the nearest to two positions is one neighbor
        return csr_matrix((np.ones(len(source), dtype=bool), (source, target)), shape=(len(rows), len(self.centers)))


def _offsets(centers_um: np.ndarray, rule: NeighborRule) -> tuple[np.ndarray | None, float]:
    """Return the offsets (k, 2) of neighbors in training and how far from them a spot may be, both in µm.

    The offsets are None if the array of the training is unknown, or these spots have its pitch.
    """
    distinct = np.unique(centers_um, axis=0)
    if rule.pitch_um is None or rule.layout is None or len(distinct) < 2:
        return None, np.inf
    pitch = pitch_px(distinct)
    if abs(pitch / rule.pitch_um - 1) <= SAME_PITCH:
        return None, np.inf
    text = "The places are %.4g µm apart, and the spots of the training %.4g µm: neighbors are "
    if pitch < rule.pitch_um:
        logger.info(text + "the places at the distances of training.", pitch, rule.pitch_um)
    else:
        logger.warning(text + "farther away than in training.", pitch, rule.pitch_um)
    return trained_offsets(rule, rule.pitch_um, rule.layout), max(HALF_DIAGONAL * pitch, STAND_IN * rule.pitch_um)


def trained_offsets(rule: NeighborRule, pitch_um: float, layout: str) -> np.ndarray:
    """Return the offsets (k, 2) in µm from a spot to its neighbors by a rule, inside of an array of this pitch."""
    steps = rule.reach if rule.kind == "box" else rule.reach / pitch_um
    side = 2 * pitch_um * (min(steps, rule.cap**0.5) + 2)
    centers, array = spot_grid(side, side, pitch_um, 0.0, layout)
    middle = np.linalg.norm(centers - side / 2, axis=1).argmin()
    anywhere = rule.model_copy(update={"pitch_um": None})
    near = NeighborFinder(centers, anywhere, array).of(np.array([middle]))
    return np.asarray(centers[near.indices] - centers[middle])


def nearest_within(points: np.ndarray, centers: np.ndarray, reach: float, *, square: bool = False) -> np.ndarray:
    """Return the number of the nearest center (m, 2) of each point (n, 2), and -1 if it is farther than `reach`.

    With `square`, points are in a square of this half side instead of a circle.
    """
    from scipy.spatial import cKDTree

    norm, limit = (np.inf if square else 2.0), reach * (1 + 1e-9)
    found = cKDTree(centers).query(points, p=norm, distance_upper_bound=limit)[1]
    return np.where(found < len(centers), found, -1)


def array_layout(centers_um: np.ndarray) -> Literal["hexagonal", "square"] | None:
    """Return the layout of spots (n, 2), n ≥ 2: None if they do not form a regular array."""
    from scipy.spatial import cKDTree

    tree = cKDTree(centers_um)
    nearest = tree.query(centers_um, k=2)[0][:, 1]
    if np.quantile(nearest, 0.1) < REGULAR * np.median(nearest):
        return None
    # Inside of the array, as spots at the border have fewer: 6 in a hexagonal array, 4 in a square one.
    around = tree.query_ball_point(centers_um, 1.2 * pitch_px(centers_um), return_length=True) - 1
    return "hexagonal" if np.quantile(around, 0.9) > 4.5 else "square"


def check_array(rule: NeighborRule, array: np.ndarray | None) -> None:
    """Raise if a rule needs array positions and there are none."""
    if rule.kind == "box" and array is None:
        raise InputError(
            "The model takes neighbors from the spot array, but the spots have no array positions: add columns "
            "'array_row' and 'array_col' to the table or shapes, or use a model with neighbors in a radius."
        )


def select_columns(neighbors: csr_matrix, columns: np.ndarray) -> csr_matrix:
    """Select columns of a neighbor matrix, in time proportional to its entries instead of its width."""
    order = np.argsort(columns)
    ordered = columns[order]
    at = np.minimum(np.searchsorted(ordered, neighbors.indices), len(ordered) - 1)
    kept = ordered[at] == neighbors.indices
    starts = np.concatenate([[0], np.cumsum(kept)])[neighbors.indptr]
    selected = csr_matrix((neighbors.data[kept], order[at[kept]], starts), shape=(neighbors.shape[0], len(columns)))
    selected.sort_indices()
    return selected


def padded(neighbors: csr_matrix) -> np.ndarray:
    """Convert a neighbor matrix to indices (n, k), where k is the largest number of neighbors; -1 is padding."""
    counts = np.diff(neighbors.indptr)
    table = np.full((len(counts), int(counts.max(initial=0))), -1, dtype=np.int64)
    table[np.arange(table.shape[1]) < counts[:, None]] = neighbors.indices
    return table
