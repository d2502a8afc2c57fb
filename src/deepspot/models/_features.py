from __future__ import annotations

import numpy as np

from deepspot._bags import Bags
from deepspot._neighbors import padded


def context_features(bags: Bags) -> np.ndarray:
    """Spot, mean sub-spot and maximum over the neighbours side by side: (n, 3 d), or (n, 2 d) without sub-spots."""
    index = padded(bags.neighbors)
    around = np.full_like(bags.spot, -np.inf)
    for column in index.T:
        around = np.maximum(around, np.where(column[:, None] >= 0, bags.spot[column], -np.inf))
    around[~np.isfinite(around)] = 0
    parts = [bags.spot, around]
    if bags.subspots is not None:
        parts.insert(1, bags.subspots.mean(axis=1, dtype=np.float32))
    return np.concatenate(parts, axis=1)
