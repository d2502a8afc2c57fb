from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from deepspot.errors import InputError

from .geometry import NeighborRule

# In distances between spots: reaches the first ring of neighbors, diagonals too, in a hexagonal and in a square array.
RINGS = 1.5
# Distances of a lattice that are equal but for rounding.
AS_FAR = 1 + 1e-9


def find_neighbors(centers_um: np.ndarray, rule: NeighborRule, array: np.ndarray | None = None) -> csr_matrix:
    """Neighbors of every spot: boolean matrix (n, n), whose row i marks the neighbors of spot i, without itself.

    `centers_um` are positions (n, 2) in µm; `array` are rows and columns (n, 2) in the spot array, which the rule
    ``"box"`` needs.
    """
    return NeighborFinder(centers_um, rule, array).of(np.arange(len(centers_um)))


class NeighborFinder:
    """Finds the neighbors of some spots at a time, for slides whose neighbors are too many to hold at once.

    Arguments are those of :func:`find_neighbors`.
    """

    def __init__(self, centers_um: np.ndarray, rule: NeighborRule, array: np.ndarray | None = None) -> None:
        from scipy.spatial import cKDTree

        check_array(rule, array)
        self.centers, self.rule = centers_um, rule
        self.points = centers_um if rule.kind == "radius" or array is None else array
        self.tree = cKDTree(self.points)

    def of(self, rows: np.ndarray) -> csr_matrix:
        """Boolean matrix (rows, n): which spots are the neighbors of these."""
        points, reach = self.points[rows], self.rule.reach
        if self.rule.kind == "radius":
            # Thousands may lie in reach: no farther than the last that counts, and those that are as far as it.
            count = min(self.rule.cap + 1, len(self.centers))
            farthest = self.tree.query(points, k=[count])[0][:, 0]
            found = self.tree.query_ball_point(points, np.minimum(reach, farthest * AS_FAR))
        else:  # a box of the array is a ball in the Chebyshev metric
            found = self.tree.query_ball_point(points, reach, p=np.inf)
        source = np.repeat(np.arange(len(rows)), [len(near) for near in found])
        target = np.fromiter((spot for near in found for spot in near), dtype=np.int64, count=len(source))
        other = target != rows[source]
        source, target = source[other], target[other]
        distance = np.linalg.norm(self.centers[rows[source]] - self.centers[target], axis=1)
        order = np.lexsort((target, distance, source))  # ties go to the smaller index, so that results can be repeated
        source, target = source[order], target[order]
        near = np.arange(len(source)) - np.searchsorted(source, source, side="left") < self.rule.cap
        source, target = source[near], target[near]
        return csr_matrix((np.ones(len(source), dtype=bool), (source, target)), shape=(len(rows), len(self.centers)))


def check_array(rule: NeighborRule, array: np.ndarray | None) -> None:
    """Raise if a rule needs array positions and there are none."""
    if rule.kind == "box" and array is None:
        raise InputError(
            "The model takes neighbors from the spot array, but the spots have no array positions: add columns "
            "'array_row' and 'array_col' to the table or shapes, or use a model whose neighbors lie in a radius."
        )


def among(neighbors: csr_matrix, columns: np.ndarray) -> csr_matrix:
    """Some columns of a neighbor matrix, in this order, in a time that does not grow with the number of all."""
    order = np.argsort(columns)
    known = columns[order]
    at = np.minimum(np.searchsorted(known, neighbors.indices), len(known) - 1)
    kept = known[at] == neighbors.indices
    starts = np.concatenate([[0], np.cumsum(kept)])[neighbors.indptr]
    shape = (neighbors.shape[0], len(columns))
    found = csr_matrix((neighbors.data[kept], order[at[kept]], starts), shape=shape)
    found.sort_indices()
    return found


def padded(neighbors: csr_matrix) -> np.ndarray:
    """Neighbor matrix as indices (n, k), k being the largest number of neighbors; -1 where there are fewer."""
    counts = np.diff(neighbors.indptr)
    table = np.full((len(counts), int(counts.max(initial=0))), -1, dtype=np.int64)
    table[np.arange(table.shape[1]) < counts[:, None]] = neighbors.indices
    return table
