from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from deepspot.errors import InputError

from .geometry import NeighborRule

# Default radius in distances between spots: the first ring of a hexagonal or square array, including diagonals.
RINGS = 1.5


def find_neighbors(centers_um: np.ndarray, rule: NeighborRule, array: np.ndarray | None = None) -> csr_matrix:
    """Find the neighbors of every spot: boolean matrix (n, n) without a diagonal; row i marks the neighbors of spot i.

    `centers_um` (n, 2) are in µm; `array` (n, 2) are rows and columns in the spot array, required by ``"box"`` rules.
    """
    return NeighborFinder(centers_um, rule, array).of(np.arange(len(centers_um)))


class NeighborFinder:
    """Find the neighbors of a part of the spots, for large slides. Arguments as of :func:`find_neighbors`."""

    def __init__(self, centers_um: np.ndarray, rule: NeighborRule, array: np.ndarray | None = None) -> None:
        from scipy.spatial import cKDTree

        check_array(rule, array)
        self.centers, self.rule = centers_um, rule
        self.points = centers_um if rule.kind == "radius" or array is None else array
        self.tree = cKDTree(self.points)

    def of(self, rows: np.ndarray) -> csr_matrix:
        """Find the neighbors of some spots: boolean matrix (rows, n)."""
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
