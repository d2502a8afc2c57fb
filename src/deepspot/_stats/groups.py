"""Sums over groups of rows."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix


def members_of(groups: np.ndarray, n_groups: int | None = None, dtype: type = np.float64) -> csr_matrix:
    """Return a matrix (n_groups, n) whose product with values (n, ...) is their sum over each group.

    `groups` (n,) are numbers from 0; rows with a negative number are in no group.
    """
    rows = np.flatnonzero(groups >= 0)
    shape = (int(groups.max(initial=-1)) + 1 if n_groups is None else n_groups, len(groups))
    return csr_matrix((np.ones(len(rows), dtype=dtype), (groups[rows], rows)), shape=shape)
