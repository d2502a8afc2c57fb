from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import block_diag, csr_matrix


@dataclass(frozen=True, eq=False)
class Bags:
    """The input of a model: three sets of tile embeddings per spot.

    Attributes
    ----------
    spot
        (n, d) embedding of the spot tile.
    subspots
        (n, s, d) embeddings of the sub-spot tiles, or None where they were not made.
    neighbors
        (n, n) matrix, kept as boolean CSR, without a diagonal: which spots are the neighbours of a spot.
    """

    spot: np.ndarray
    subspots: np.ndarray | None
    neighbors: csr_matrix

    def __post_init__(self) -> None:
        n, d = self.spot.shape
        if n == 0:
            raise ValueError("`spot` is empty: a bag needs at least one spot.")
        if self.neighbors.shape != (n, n):
            raise ValueError(f"`neighbors` must be of shape {(n, n)}, got {self.neighbors.shape}.")
        if self.subspots is not None and (self.subspots.shape[0], self.subspots.shape[-1]) != (n, d):
            raise ValueError(f"`subspots` must be of shape ({n}, s, {d}), got {self.subspots.shape}.")
        object.__setattr__(self, "spot", np.ascontiguousarray(self.spot))
        if self.subspots is not None:
            object.__setattr__(self, "subspots", np.ascontiguousarray(self.subspots))
        neighbors = csr_matrix(self.neighbors, dtype=bool, copy=True)
        neighbors.eliminate_zeros()
        if neighbors.diagonal().any():
            raise ValueError(
                "`neighbors` has entries on its diagonal: a spot is no neighbour of its own. Set them to 0."
            )
        object.__setattr__(self, "neighbors", neighbors)

    def __len__(self) -> int:
        return len(self.spot)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.spot.shape[1]

    @staticmethod
    def concat(bags: Sequence[Bags]) -> Bags:
        """Put slides under one another; no neighbourhood crosses from one slide to another."""
        if any(bag.subspots is None for bag in bags) and any(bag.subspots is not None for bag in bags):
            raise ValueError("Some slides have sub-spots and some have not. Embed all of them with `subspots=True`.")
        subspots = None if bags[0].subspots is None else np.concatenate([bag.subspots for bag in bags])  # type: ignore[misc]
        neighbors = csr_matrix(block_diag([bag.neighbors for bag in bags], format="csr", dtype=bool))
        return Bags(np.concatenate([bag.spot for bag in bags]), subspots, neighbors)
