from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from deepspot._core.validate import key_in
from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded
from deepspot.errors import InputError

from ._network.config import Context

CONTEXT: tuple[Context, ...] = get_args(Context)


def sets_of(bags: Bags) -> tuple[Context, ...]:
    """Sets that the bags hold."""
    return tuple(part for part in CONTEXT if part != "subspots" or bags.subspots is not None)


def context_features(bags: Bags, context: Sequence[str] = CONTEXT, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Sets of a spot side by side: the spot itself, the mean of its sub-spots, the maximum over its neighbors.

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
    (n, d × number of sets) in float32. A spot without neighbors has zeros for them.
    """
    for part in context:
        key_in(part, CONTEXT, "context")
    if len(context) == 0:
        raise InputError(f"`context` is empty: name at least one of {list(CONTEXT)}.")
    rows = np.arange(len(bags)) if rows is None else rows
    sets = []
    if "spot" in context:
        sets.append(bags.spot[rows])
    if "subspots" in context:
        if bags.subspots is None:
            raise InputError("`context` has sub-spots, but there are none. Embed with `subspots=True`.")
        sets.append(bags.subspots[rows].mean(axis=1, dtype=np.float32))
    if "neighbors" in context:
        around = np.full((len(rows), bags.dim), -np.inf, dtype=np.float32)
        for column in padded(bags.neighbors[rows]).T:
            around = np.maximum(around, np.where(column[:, None] >= 0, bags.spot[column], -np.inf))
        sets.append(np.where(np.isfinite(around), around, 0))
    return np.concatenate(sets, axis=1, dtype=np.float32)
