from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import block_diag, csr_matrix

from deepspot._spatial.neighbors import among
from deepspot.errors import InputError

OPTIONAL = {"subspots": "sub-spots", "position": "positions", "tiles": "tiles"}


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
        (n, n) matrix, kept as boolean CSR, without a diagonal: which spots are the neighbors of a spot.
    position
        (n, 2) centers in µm from the middle of the slide's spots, or None where they are unknown.
    tiles
        (n, px, px, 3) spot tiles in uint8, only for models that learn from pixels.
    """

    spot: np.ndarray
    subspots: np.ndarray | None
    neighbors: csr_matrix
    position: np.ndarray | None = None
    tiles: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, d = self.spot.shape
        if n == 0:
            raise InputError("`spot` is empty: a bag needs at least one spot.")
        if self.neighbors.shape != (n, n):
            raise InputError(f"`neighbors` must be of shape {(n, n)}, got {self.neighbors.shape}.")
        if self.subspots is not None and (self.subspots.shape[0], self.subspots.shape[-1]) != (n, d):
            raise InputError(f"`subspots` must be of shape ({n}, s, {d}), got {self.subspots.shape}.")
        if self.position is not None and self.position.shape != (n, 2):
            raise InputError(f"`position` must be of shape {(n, 2)}, got {self.position.shape}.")
        if self.tiles is not None and (len(self.tiles) != n or self.tiles.ndim != 4 or self.tiles.shape[-1] != 3):
            raise InputError(f"`tiles` must be of shape ({n}, px, px, 3), got {self.tiles.shape}.")
        object.__setattr__(self, "spot", np.ascontiguousarray(self.spot))
        if self.subspots is not None:
            object.__setattr__(self, "subspots", np.ascontiguousarray(self.subspots))
        neighbors = csr_matrix(self.neighbors, dtype=bool, copy=True)
        neighbors.eliminate_zeros()
        if neighbors.diagonal().any():
            raise InputError(
                "`neighbors` has entries on its diagonal: a spot is no neighbor of its own. Set them to 0."
            )
        object.__setattr__(self, "neighbors", neighbors)

    def __len__(self) -> int:
        return len(self.spot)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.spot.shape[1]

    def around(self, rows: np.ndarray) -> Bags:
        """Bags of some spots, in that order, and after them those of their neighbors (without all of theirs)."""
        near = np.setdiff1d(self.neighbors[rows].indices, rows)
        taken = np.concatenate([rows, near])
        optional = {name: None if (array := getattr(self, name)) is None else array[taken] for name in OPTIONAL}
        return Bags(spot=self.spot[taken], neighbors=among(self.neighbors[taken], taken), **optional)

    @staticmethod
    def concat(bags: Sequence[Bags]) -> Bags:
        """Put slides under one another; no neighborhood crosses from one slide to another."""
        optional = {name: _together(name, [getattr(bag, name) for bag in bags]) for name in OPTIONAL}
        neighbors = csr_matrix(block_diag([bag.neighbors for bag in bags], format="csr", dtype=bool))
        return Bags(spot=np.concatenate([bag.spot for bag in bags]), neighbors=neighbors, **optional)


def _together(name: str, parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    if known and len(known) < len(parts):
        raise InputError(f"Some slides have {OPTIONAL[name]} and some have not. Make them for all or for none.")
    return np.concatenate(known) if known else None
