from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np

from deepspot._features.bags import Bags
from deepspot.models._confidence.folds import labels
from deepspot.models._estimator import Estimator
from deepspot.models._features import sets_of

from .inputs import not_fitted, rows_to_learn
from .ridge import Ridge


class ShuffledImages:
    """The null model that learns from the wrong images: those of other spots of the same slide.

    Embeddings of spot and sub-spots (and tiles) change places together among the spots of a slide; who is whose
    neighbour stays. Then the wrapped system is fitted as always, and predicts from true images. What it still gets
    right is no matter of single spots, such as differences between whole slides.

    Parameters
    ----------
    factory
        Makes the system, by default :class:`Ridge` on all sets that there are.
    seed
        Same seed, same permutation.

    Attributes
    ----------
    estimator
        The fitted system.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.ShuffledImages(factory=ds.models.Linear).fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    def __init__(self, *, factory: Callable[[], Estimator] | None = None, seed: int = 0) -> None:
        self.factory = factory
        self.seed = seed
        self.estimator: Estimator | None = None

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
    ) -> Self:
        """Fit the system to measured expression and shuffled images; arguments as in :meth:`Ridge.fit`."""
        rows = rows_to_learn(bags, targets, rows)
        shuffled = _shuffle(bags, labels(slides, len(bags), "slides"), self.seed)
        self.estimator = (self.factory or partial(Ridge, context=sets_of(bags)))()
        self.estimator.fit(shuffled, targets, rows=rows, slides=slides, patients=patients)
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        """Predict log-expression (n, genes) from true images."""
        if self.estimator is None:
            raise not_fitted(self)
        return self.estimator.predict(bags)


def _shuffle(bags: Bags, slides: np.ndarray, seed: int) -> Bags:
    rng = np.random.default_rng(seed)
    order = np.arange(len(bags))
    for slide in np.unique(slides):
        members = np.flatnonzero(slides == slide)
        order[members] = rng.permutation(members)
    subspots, tiles = (None if values is None else values[order] for values in (bags.subspots, bags.tiles))
    return replace(bags, spot=bags.spot[order], subspots=subspots, tiles=tiles)
