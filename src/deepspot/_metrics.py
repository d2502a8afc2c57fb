from __future__ import annotations

import numpy as np


def pearson(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pearson r (genes,) of two (n, genes) matrices over the spots; NaN where one of them does not vary."""
    a, b = (np.asarray(part, dtype=np.float64) for part in (predicted, measured))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), scale, out=np.full(a.shape[1], np.nan), where=scale > 1e-12)
