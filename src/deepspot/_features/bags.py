from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import block_diag, csr_matrix

from deepspot._spatial.neighbors import select_columns
from deepspot.errors import InputError

OPTIONAL = {"subspots": "sub-spots", "position": "positions", "tiles": "tiles", "origins": "origins"}
ARRAYS = (*OPTIONAL, "present")


@dataclass(frozen=True, eq=False)
class Bags:
    """Input of a model: the tile embeddings of each spot, of its sub-spots and of its neighbors.

    Attributes
    ----------
    spot
        (n, d) embedding of the spot tile.
    subspots
        (n, s, d) embeddings of the sub-spots, which are tiles or nuclei, or None.
    neighbors
        (n, n) sparse matrix, stored as boolean CSR without a diagonal: row i marks the neighbors of spot i.
    position
        (n, 2) centers in µm, relative to the mean of the slide's spots, or None.
    tiles
        (n, px, px, 3) spot tiles in uint8, only for models that are trained on pixels, or None.
    origins
        (n, 2) x and y of the top left corner of the spot tiles in pixels of the full-resolution image, or None.
    present
        (n, s) bool, for spots with different numbers of sub-spots: which of `subspots` exist. The others are padding
        and must be 0. None if all exist. A spot may have none; the mean and the sum over its sub-spots are then 0.
    """

    spot: np.ndarray
    subspots: np.ndarray | None
    neighbors: csr_matrix
    position: np.ndarray | None = None
    tiles: np.ndarray | None = None
    origins: np.ndarray | None = None
    present: np.ndarray | None = None

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
        if self.origins is not None and self.origins.shape != (n, 2):
            raise InputError(f"`origins` must be of shape {(n, 2)}, got {self.origins.shape}.")
        if self.present is not None:
            _check_present(self.present, self.subspots)
        object.__setattr__(self, "spot", np.ascontiguousarray(self.spot))
        if self.subspots is not None:
            object.__setattr__(self, "subspots", np.ascontiguousarray(self.subspots))
        neighbors = csr_matrix(self.neighbors, dtype=bool, copy=True)
        neighbors.eliminate_zeros()
        if neighbors.diagonal().any():
            raise InputError("`neighbors` has entries on its diagonal: a spot is not its own neighbor. Set them to 0.")
        object.__setattr__(self, "neighbors", neighbors)

    def __len__(self) -> int:
        return len(self.spot)

    @property
    def dim(self) -> int:
        """Dimension of an embedding."""
        return self.spot.shape[1]

    @property
    def exist(self) -> np.ndarray:
        """Which sub-spots exist (n, s), in bool; (n, 0) without sub-spots."""
        if self.present is not None:
            return self.present
        return np.ones((len(self), 0) if self.subspots is None else self.subspots.shape[:2], dtype=bool)

    def around(self, rows: np.ndarray) -> Bags:
        """Return the bags of some spots, in this order, followed by their neighbors (with incomplete neighbors)."""
        near = np.setdiff1d(self.neighbors[rows].indices, rows)
        taken = np.concatenate([rows, near])
        optional = {name: None if (array := getattr(self, name)) is None else array[taken] for name in ARRAYS}
        return Bags(spot=self.spot[taken], neighbors=select_columns(self.neighbors[taken], taken), **optional)

    @staticmethod
    def concat(bags: Sequence[Bags]) -> Bags:
        """Concatenate the bags of slides; spots of different slides are never neighbors.

        If some have `present`, the sub-spots of all are padded to the largest number.
        """
        optional: dict[str, np.ndarray | None] = {}
        if any(bag.present is not None for bag in bags) and all(bag.subspots is not None for bag in bags):
            bags = _padded_alike(bags)
            optional["present"] = np.concatenate([bag.present for bag in bags if bag.present is not None])
        for name, label in OPTIONAL.items():
            parts = [part for bag in bags if (part := getattr(bag, name)) is not None]
            if 0 < len(parts) < len(bags):
                raise InputError(f"Some slides have {label} and some have not. Create them for all or for none.")
            optional[name] = np.concatenate(parts) if parts else None
        neighbors = csr_matrix(block_diag([bag.neighbors for bag in bags], format="csr", dtype=bool))
        return Bags(spot=np.concatenate([bag.spot for bag in bags]), neighbors=neighbors, **optional)


def _check_present(present: np.ndarray, subspots: np.ndarray | None) -> None:
    if subspots is None:
        raise InputError("`present` says which `subspots` exist, but there are none. Pass both or neither.")
    if present.shape != subspots.shape[:2] or present.dtype != bool:
        raise InputError(
            f"`present` must be bool of shape {subspots.shape[:2]}, got {present.dtype} of shape {present.shape}."
        )
    # A mask with the opposite meaning is noticed, too.
    if np.any(subspots[~present]):
        raise InputError(
            "`subspots` are not 0 in places where `present` is False. `present` is True for sub-spots that exist; set "
            "the others to 0."
        )


def _padded_alike(bags: Sequence[Bags]) -> list[Bags]:
    """Pad the sub-spots of all bags to the largest number, and state in all which are present."""
    widest, made = max(bag.subspots.shape[1] for bag in bags if bag.subspots is not None), []
    for bag in bags:
        if bag.subspots is not None:
            more = (0, widest - bag.subspots.shape[1])
            subspots = np.pad(bag.subspots, ((0, 0), more, (0, 0)))
            made.append(replace(bag, subspots=subspots, present=np.pad(bag.exist, ((0, 0), more))))
    return made
