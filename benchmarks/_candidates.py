"""Variants of the default model that are no part of the package: what they would have to beat to become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot.models._confidence.folds import labels, make_folds, which_rows


class Columns:
    """An estimator that sees some columns of the embeddings only."""

    def __init__(self, kind=ds.models.DeepSpot, first: int = 0, last: int | None = None, **params) -> None:
        self.model, self.columns = kind(**params), slice(first, last)

    def fit(self, bags: Bags, targets: np.ndarray, **options) -> Columns:
        self.model.fit(self._cut(bags), targets, **options)
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        return self.model.predict(self._cut(bags))

    def _cut(self, bags: Bags) -> Bags:
        return replace(bags, spot=bags.spot[:, self.columns], subspots=bags.subspots[:, :, self.columns])


class RidgeAndResidual:
    """Tuned ridge, and a network that learns what ridge leaves over on units that it did not see."""

    def __init__(self, share: float = 1.0, **params) -> None:
        self.share, self.ridge, self.network = share, ds.models.Ridge(), ds.models.DeepSpot(**params)

    def fit(self, bags: Bags, targets: np.ndarray, *, rows=None, slides=None, patients=None) -> RidgeAndResidual:
        rows = which_rows(rows, len(bags))
        slides, patients = labels(slides, len(bags), "slides"), labels(patients, len(bags), "patients")
        left = np.full(targets.shape, np.nan, dtype=np.float32)
        for learnt, held in make_folds(rows, slides, patients).splits:
            fold = ds.models.Ridge().fit(bags, targets, rows=learnt, slides=slides, patients=patients)
            left[held] = targets[held] - fold.predict(bags)[held]
        known = {"rows": rows, "slides": slides, "patients": patients}
        self.ridge.fit(bags, targets, **known)
        self.network.fit(bags, left, **known)
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        return self.ridge.predict(bags) + self.share * self.network.predict(bags)


class SmoothNeighbors:
    """The neighbours' embeddings averaged into one, weighted by distance, instead of the maximum over φ of each."""

    def __init__(self, reach_um: float = 200.0, **params) -> None:
        self.reach_um, self.model = reach_um, ds.models.DeepSpot(**params)

    def fit(self, bags: Bags, targets: np.ndarray, **options) -> SmoothNeighbors:
        self.model.fit(self._around(bags), targets, **options)
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        return self.model.predict(self._around(bags))

    def _around(self, bags: Bags) -> Bags:
        """Append the weighted mean of the neighbours to the embedding of the spot (sub-spots get zeros)."""
        pairs = bags.neighbors.tocoo()
        distance = np.linalg.norm(bags.position[pairs.row] - bags.position[pairs.col], axis=1)
        weights = bags.neighbors.astype(np.float32).tocoo()
        weights.data = np.exp(-((distance / self.reach_um) ** 2)).astype(np.float32)
        weights = weights.tocsr()
        total = np.maximum(np.asarray(weights.sum(axis=1)), 1e-9)
        mean = np.asarray(weights @ bags.spot) / total
        zeros = np.zeros((*bags.subspots.shape[:2], bags.dim), dtype=bags.subspots.dtype)
        return replace(
            bags, spot=np.concatenate([bags.spot, mean.astype(np.float32)], axis=1),
            subspots=np.concatenate([bags.subspots, zeros], axis=2),
        )  # fmt: skip


class CountLikelihood:
    """The default network, but trained for the likelihood of the raw counts.

    Counts are found again from expression: the smallest positive value of a spot is one count, at least on the shallow
    slides that the likelihood is meant for. Depth then weighs the spots, as it should. `dispersion` makes it negative
    binomial: a variance of μ + dispersion · μ². What is below 0 becomes 0, as the likelihood cannot tell it apart.
    """

    def __init__(self, dispersion: float = 0.0, **params: Any) -> None:
        self.dispersion, self.model = dispersion, ds.models.DeepSpot(**params)

    def fit(self, bags: Bags, targets: np.ndarray, **options: Any) -> CountLikelihood:
        with patch("deepspot.models._network.fit.make_loss", self._make_loss):
            self.model.fit(bags, targets, **options)
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        return _positive(torch.from_numpy(self.model.predict(bags))).numpy()

    def _make_loss(self, _: str, mean: Tensor, std: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
            expression = torch.expm1((target * std + mean).clamp(min=0))
            one = expression.where(expression > 1e-3, torch.inf).amin(1, keepdim=True)
            counts, mu = (expression / one).round(), torch.expm1(_positive(prediction * std + mean)) / one
            # Terms without μ are left out.
            nll = -torch.special.xlogy(counts, mu + 1e-8)
            if self.dispersion:
                nll += (counts + 1 / self.dispersion) * torch.log1p(self.dispersion * mu)
            else:
                nll += mu
            return (nll * mask).sum() / mask.sum().clamp(min=1)

        return loss


def _positive(expression: Tensor) -> Tensor:
    return F.softplus(expression, beta=20)
