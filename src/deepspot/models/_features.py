from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from deepspot._core.validate import key_in
from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded

from ._network.config import Context

CONTEXT: tuple[Context, ...] = get_args(Context)


def sets_of(bags: Bags) -> tuple[Context, ...]:
    """Sets that the bags hold."""
    return tuple(part for part in CONTEXT if part != "subspots" or bags.subspots is not None)


def context_features(bags: Bags, context: Sequence[str] = CONTEXT, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Sets of a spot side by side: the spot itself, the mean of its sub-spots, the maximum over its neighbours.

    Parameters
    ----------
    bags
        Embeddings of n spots.
    context
        Which of ``"spot"``, ``"subspots"``, ``"neighbors"``; they come in this order, however they are given.
    rows
        Which of the spots (n,); by default all.

    Returns
    -------
    (n, d × number of sets) in float32. A spot without neighbours has zeros for them.
    """
    for part in context:
        key_in(part, CONTEXT, "context")
    if len(context) == 0:
        raise ValueError(f"`context` is empty: name at least one of {list(CONTEXT)}.")
    if "subspots" in context and bags.subspots is None:
        raise ValueError("`context` has sub-spots, but there are none. Embed with `subspots=True`.")
    rows = np.arange(len(bags)) if rows is None else rows
    make = {"spot": _spot, "subspots": _subspots, "neighbors": _neighbors}
    return np.concatenate([make[part](bags, rows) for part in CONTEXT if part in context], axis=1, dtype=np.float32)


def _spot(bags: Bags, rows: np.ndarray) -> np.ndarray:
    return bags.spot[rows]


def _subspots(bags: Bags, rows: np.ndarray) -> np.ndarray:
    return bags.subspots[rows].mean(axis=1, dtype=np.float32)  # type: ignore[union-attr, index]


def _neighbors(bags: Bags, rows: np.ndarray) -> np.ndarray:
    around = np.full((len(rows), bags.dim), -np.inf, dtype=np.float32)
    for column in padded(bags.neighbors[rows]).T:
        around = np.maximum(around, np.where(column[:, None] >= 0, bags.spot[column], -np.inf))
    around[~np.isfinite(around)] = 0
    return around
