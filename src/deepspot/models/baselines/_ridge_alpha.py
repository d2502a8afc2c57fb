from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepspot._metrics import pearson
from deepspot.models._folds import make_folds

from ._ridge_path import RidgePath


def score_alphas(
    features: np.ndarray,
    targets: np.ndarray,
    alphas: Sequence[float],
    n_components: int | None,
    *,
    rows: np.ndarray,
    slides: np.ndarray,
    patients: np.ndarray,
    position: np.ndarray | None = None,
) -> dict[float, float]:
    """Mean r of each strength: over genes within a held-out slide, then over these slides; undefined r counts as 0.

    Parameters
    ----------
    features, targets
        (n, d) and (n, genes) of all spots.
    alphas, n_components
        Strengths, and the limit on the components.
    rows, slides, patients, position
        Rows to learn from, labels (n,) and centres (n, 2) of all spots.
    """
    r: dict[float, list[float]] = {alpha: [] for alpha in alphas}
    for learn, test in make_folds(rows, slides, patients, position=position).splits:
        path = RidgePath.fit(features[learn], targets[learn], n_components)
        rotated = path.rotate(features[test])
        slide = [np.flatnonzero(slides[test] == name) for name in np.unique(slides[test])]
        for alpha in alphas:
            predicted = rotated @ path.weights(alpha)
            r[alpha] += [np.nan_to_num(pearson(predicted[part], targets[test][part])).mean() for part in slide]
    return {alpha: float(np.mean(values)) for alpha, values in r.items()}
