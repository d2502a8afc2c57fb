"""Out-of-distribution (OOD) score: distance of a spot tile to the training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from deepspot.errors import InputError

from .folds import Folds, make_folds

NEIGHBORS = 5
CORE = 512
SHARE_BELOW = 0.95
ENOUGH = 3
# Share of OOD spots above which a slide is of another tissue, stain or scanner; on similar slides it is about 5 %.
MANY_OOD = 0.25
# Minimum threshold, for training spots that are all equal.
LEAST = 1e-6
# Distances that are in memory at once; the default of scikit-learn is 1 GB.
WORKING_MB = 32


@dataclass(frozen=True, eq=False)
class OODDetector:
    """Out-of-distribution score of spots: cosine distance to the nearest training embeddings.

    The detector keeps embeddings of at most 512 random training spots. The score of a spot is its mean distance to the
    five nearest of them, divided by a threshold: the 95 % quantile over the spots of a held-out patient, median over
    patients (with fewer than three patients over slides, so that spots of another patient are flagged more often).

    Attributes
    ----------
    core
        (m, d) training embeddings of length 1.
    threshold
        (1,) distance above which a spot is out-of-distribution.

    References
    ----------
    Sun, Ming, Zhu and Li, "Out-of-distribution detection with deep nearest neighbors", ICML 2022. Compared with
    Mahalanobis distances in ``docs/result_tables.md``.
    """

    core: np.ndarray
    threshold: np.ndarray

    @classmethod
    def fit(
        cls,
        spot: np.ndarray,
        rows: np.ndarray,
        slides: np.ndarray,
        patients: np.ndarray,
        *,
        position: np.ndarray | None = None,
        seed: int = 0,
    ) -> Self:
        """Fit to the embeddings (n, d) of the spot tiles in `rows`, each counted once.

        The threshold comes from spots of held-out patients; with fewer than three patients of held-out slides; with one
        slide of each, of held-out parts of the slides. The `seed` is for the choice of the kept spots.
        """
        once = np.unique(rows)
        reached = []
        for folds in _folds(once, slides, patients, position):
            for _, held in folds.splits:
                # All other spots, also of slides that these folds do not divide, as in the final core.
                train = np.setdiff1d(once, held)
                distance, units = _distance(_core(spot[train], seed), spot[held]), folds.labels[held]
                reached += [np.quantile(distance[units == unit], SHARE_BELOW) for unit in np.unique(units)]
        threshold = max(float(np.median(reached)), LEAST)
        return cls(_core(spot[once], seed), np.array([threshold], dtype=np.float32))

    @classmethod
    def unknown(cls, dim: int) -> Self:
        """Return a detector without training data, such as that of a converted checkpoint: all scores are NaN."""
        return cls(np.empty((0, dim), dtype=np.float32), np.array([np.nan], dtype=np.float32))

    @property
    def known(self) -> bool:
        """Whether the training data are known."""
        return len(self.core) > 0

    def score(self, spot: np.ndarray) -> np.ndarray:
        """Return the score of every spot (n,) in float32; above 1 a spot is out-of-distribution."""
        if spot.ndim != 2 or spot.shape[1] != self.core.shape[1]:
            raise InputError(f"`spot` must be of shape (n, {self.core.shape[1]}), got {spot.shape}.")
        if not self.known:
            return np.full(len(spot), np.nan, dtype=np.float32)
        return (_distance(self.core, spot) / self.threshold).astype(np.float32)


def _folds(once: np.ndarray, slides: np.ndarray, patients: np.ndarray, position: np.ndarray | None) -> list[Folds]:
    """Return the folds that the threshold is estimated on."""
    known = np.unique(patients[once])
    if len(known) >= ENOUGH:
        return [make_folds(once, slides, patients, position=position)]
    # The distance between two patients can be as large as to another species, so it gives no threshold.
    alike = np.zeros(len(slides))
    if any(len(np.unique(slides[once][patients[once] == patient])) > 1 for patient in known):
        return [make_folds(once, slides, alike, position=position)]
    parts = [once[slides[once] == slide] for slide in np.unique(slides[once])]
    return [make_folds(part, alike, alike, position=position) for part in parts if len(part) > 1] or [
        make_folds(once, alike, alike, position=position)
    ]


def _core(spot: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.preprocessing import normalize

    kept = np.sort(np.random.default_rng(seed).permutation(len(spot))[:CORE])
    return normalize(spot[kept].astype(np.float32))


def _distance(core: np.ndarray, spot: np.ndarray) -> np.ndarray:
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(core)), metric="cosine").fit(core)
    with config_context(working_memory=WORKING_MB):
        return nearest.kneighbors(spot.astype(np.float32, copy=False))[0].mean(axis=1)
