from __future__ import annotations

import numpy as np


def pearson(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pearson r (genes,) of two (n, genes) matrices, over the spots that both know.

    NaN where one of them does not vary over these spots.
    """
    known = np.isfinite(predicted) & np.isfinite(measured)
    count = np.maximum(known.sum(axis=0), 1)
    a, b = (np.where(known, part, 0).astype(np.float64) for part in (predicted, measured))
    a, b = (np.where(known, part - part.sum(axis=0) / count, 0) for part in (a, b))
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), scale, out=np.full(a.shape[1], np.nan), where=scale > 1e-12)
