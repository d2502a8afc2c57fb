from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from ._geometry import NeighborRule


def find_neighbors(centers_um: np.ndarray, rule: NeighborRule, array: np.ndarray | None = None) -> csr_matrix:
    """Neighbours of every spot.

    Parameters
    ----------
    centers_um
        (n, 2) positions in µm.
    rule
        Which spots are neighbours.
    array
        (n, 2) row and column in the spot array, needed by the rule ``"box"``.

    Returns
    -------
    Boolean matrix (n, n): row i marks the neighbours of spot i, without itself.

    Raises
    ------
    ValueError
        If the rule is a box and array positions are missing.
    """
    from scipy.spatial import cKDTree

    n = len(centers_um)
    check_array(rule, array)
    if rule.kind == "radius":
        pairs = cKDTree(centers_um).query_pairs(rule.reach, output_type="ndarray")
    else:
        # A box of the array is a ball in the Chebyshev metric.
        pairs = cKDTree(array).query_pairs(rule.reach, p=np.inf, output_type="ndarray")
    source, target = np.concatenate([pairs, pairs[:, ::-1]]).T
    source, target = _nearest(source, target, centers_um, rule.cap)
    return csr_matrix((np.ones(len(source), dtype=bool), (source, target)), shape=(n, n))


def check_array(rule: NeighborRule, array: np.ndarray | None) -> None:
    """Raise if a rule needs array positions and there are none."""
    if rule.kind == "box" and array is None:
        raise ValueError(
            "The model takes neighbours from the spot array, but the spots have no array positions: add columns "
            "'array_row' and 'array_col' to the table or shapes, or use a model whose neighbours lie in a radius."
        )


def padded(neighbors: csr_matrix) -> np.ndarray:
    """Neighbour matrix as indices (n, k), k being the largest number of neighbours; -1 where there are fewer."""
    counts = np.diff(neighbors.indptr)
    table = np.full((len(counts), int(counts.max(initial=0))), -1, dtype=np.int64)
    table[np.arange(table.shape[1]) < counts[:, None]] = neighbors.indices
    return table


def _nearest(source: np.ndarray, target: np.ndarray, xy: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray]:
    distance = np.linalg.norm(xy[source] - xy[target], axis=1)
    order = np.lexsort((target, distance, source))  # ties go to the smaller index, so that results can be repeated
    source, target = source[order], target[order]
    rank = np.arange(len(source)) - np.searchsorted(source, source, side="left")
    return source[rank < cap], target[rank < cap]
