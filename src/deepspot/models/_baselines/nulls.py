"""Null models that do not use the image of a spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from deepspot._features.bags import Bags
from deepspot.models._estimator import Estimator
from deepspot.models._inputs import Scaler, sets_of

from .base import Baseline
from .ridge import Ridge


class TrainingMean(Baseline):
    """Null model that predicts the mean expression of the training spots for every spot.

    Attributes
    ----------
    mean
        (genes,) in float32; 0 for a gene that was never measured.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> bags = ds.models.Bags(np.zeros((2, 3), "float32"), None, csr_matrix((2, 2), dtype=bool))
    >>> ds.models.TrainingMean().fit(bags, np.array([[0.0, 1.0], [2.0, 1.0]])).predict(bags)[0].tolist()
    [1.0, 1.0]
    """

    _state = "mean"
    mean: np.ndarray

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        self.mean = Scaler.fit(targets[rows]).mean

    def _predict(self, bags: Bags) -> np.ndarray:
        return np.tile(self.mean, (len(bags), 1))


@dataclass(eq=False, kw_only=True)
class ShuffledImages(Baseline):
    """Null model that is fitted to the images of other spots of the same slide.

    Embeddings of spot and sub-spots, and tiles, are permuted together among the spots of a slide; neighbors stay. The
    wrapped model is then fitted, and predicts from the true images. Its remaining accuracy is not due to the images of
    single spots, but for example to differences between slides.

    Parameters
    ----------
    factory
        Function that makes the model, by default :class:`Ridge` on all sets of the bags.
    seed
        Random seed; the same seed gives the same permutation. By default from the settings.

    Attributes
    ----------
    estimator
        The fitted model.

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

    _state = "estimator"
    factory: Callable[[], Estimator] | None = None
    seed: int | None = None
    estimator: Estimator = field(init=False, repr=False)

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        rng, order = np.random.default_rng(self._seed), np.arange(len(bags))
        for slide in np.unique(slides):
            members = np.flatnonzero(slides == slide)
            order[members] = rng.permutation(members)
        images = {name: getattr(bags, name) for name in ("spot", "subspots", "present", "tiles")}
        shuffled = replace(bags, **{name: values[order] for name, values in images.items() if values is not None})
        self.estimator = (self.factory or partial(Ridge, context=sets_of(bags)))()
        self.estimator.fit(shuffled, targets, rows=rows, slides=slides, patients=patients)

    def _predict(self, bags: Bags) -> np.ndarray:
        return self.estimator.predict(bags)
