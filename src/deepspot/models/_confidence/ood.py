"""How unlike the training data a spot looks: spots unlike all that a model learned from deserve no trust."""

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
# Above this share of strange spots the slide is another tissue, stain or scanner; 5 % are flagged on similar slides.
MANY_STRANGE = 0.25
# Below the rounding of float32, so that training spots that are all alike give a threshold to divide by.
LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class OODDetector:
    """Out-of-distribution score of spots: cosine distance to the nearest training embeddings.

    Kept are embeddings of at most 512 training spots, drawn at random. The score of a spot is its mean distance to the
    five nearest of them, over a threshold that 95 % of the spots of a typical held-out patient stay below (with fewer
    than three patients: of a typical held-out slide, so that spots of another patient are flagged more often).

    Attributes
    ----------
    core
        (m, d) training embeddings of length 1.
    threshold
        (1,) distance that counts as strange.

    References
    ----------
    Sun, Ming, Zhu and Li, "Out-of-distribution detection with deep nearest neighbors", ICML 2022. Compared with
    Mahalanobis distances in ``docs/reliability.md``.
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
        """Learn what is familiar from the spot tiles (n, d) of the `rows`, each of which counts once.

        The threshold comes from spots of patients that were left out of the core, the median over patients; with fewer
        than three patients of slides; with one slide of each, of parts of the slides. The `seed` is that of the draw.
        """
        once = np.unique(rows)
        reached = []
        for folds in _folds(once, slides, patients, position):
            for _, held in folds.splits:
                # All other spots, also those of slides that these folds do not divide: a fitted core holds them too.
                learned = np.setdiff1d(once, held)
                distance, units = _distance(_core(spot[learned], seed), spot[held]), folds.labels[held]
                reached += [np.quantile(distance[units == unit], SHARE_BELOW) for unit in np.unique(units)]
        threshold = max(float(np.median(reached)), LEAST)
        return cls(_core(spot[once], seed), np.array([threshold], dtype=np.float32))

    @classmethod
    def unknown(cls, dim: int) -> Self:
        """A detector without training data, such as that of a converted checkpoint: all its scores are NaN."""
        return cls(np.empty((0, dim), dtype=np.float32), np.array([np.nan], dtype=np.float32))

    @property
    def known(self) -> bool:
        """Whether there are training data to compare with."""
        return len(self.core) > 0

    def score(self, spot: np.ndarray) -> np.ndarray:
        """Score of every spot (n,) in float32: larger is stranger, above 1 is stranger than the threshold."""
        if spot.ndim != 2 or spot.shape[1] != self.core.shape[1]:
            raise InputError(f"`spot` must be of shape (n, {self.core.shape[1]}), got {spot.shape}.")
        if not self.known:
            return np.full(len(spot), np.nan, dtype=np.float32)
        return (_distance(self.core, spot) / self.threshold).astype(np.float32)


def _folds(once: np.ndarray, slides: np.ndarray, patients: np.ndarray, position: np.ndarray | None) -> list[Folds]:
    """What is left out to find the threshold."""
    known = np.unique(patients[once])
    if len(known) >= ENOUGH:
        return [make_folds(once, slides, patients, position=position)]
    # The distance between two patients is no measure of what is strange: it can be as large as to another species.
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
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(core)), metric="cosine").fit(core)
    return nearest.kneighbors(spot.astype(np.float32))[0].mean(axis=1)
