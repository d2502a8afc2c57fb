"""Corrections of the predictions of a model, fitted in closed form to measured slides."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from deepspot._core.hashing import digest
from deepspot._features.bags import Bags
from deepspot._stats.metrics import mean_r
from deepspot.models._baselines import Ridge
from deepspot.models._baselines.ridge import ALPHAS, RidgePath
from deepspot.models._confidence.folds import make_folds
from deepspot.models._fitted import FittedModel
from deepspot.models._inputs import CLIP, Scaler, context_features, which_rows
from deepspot.models._model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepspot.encoders import Encoder
    from deepspot.models._bundle.card import Card
    from deepspot.models._confidence.ood import OODDetector

Kind = Literal["affine", "ridge"]
# A slope of 0 or less would make the prediction of a gene constant, or turn it around because of the noise of a slide.
# In units of the ratio of the standard deviations of target and prediction.
LEAST_SLOPE = 0.01


@dataclass(frozen=True, eq=False)
class Correction:
    """Correction of predicted genes: ``slope * prediction + intercept``, and ridge on what that leaves over.

    `slope` and `intercept` are (genes,) in float32. A gene that was not measured has 1 and 0.
    """

    slope: np.ndarray
    intercept: np.ndarray
    ridge: Ridge | None = None

    @classmethod
    def fit(
        cls,
        kind: Kind,
        predicted: np.ndarray,
        targets: np.ndarray,
        bags: Bags,
        *,
        context: Sequence[str],
        rows: np.ndarray,
        slides: np.ndarray,
        patients: np.ndarray,
    ) -> Correction:
        """Fit to predictions and targets (n, genes) of the spots `rows`.

        Slopes are of differences within slides, so that a difference in level between slides is no pattern of a gene.
        """
        slope, intercept = fit_affine(predicted[rows], targets[rows], slides[rows])
        if kind == "affine":
            return cls(slope, intercept)
        alpha = choose_strength(predicted, targets, bags, context=context, rows=rows, slides=slides, patients=patients)
        if alpha is None:
            return cls(slope, intercept)
        left = targets - (predicted * slope + intercept)
        ridge = Ridge(alphas=(alpha,), context=context)
        return cls(slope, intercept, ridge.fit(bags, left, rows=rows, slides=slides, patients=patients))

    def apply(self, predicted: np.ndarray, bags: Bags, rows: np.ndarray) -> np.ndarray:
        """Correct predictions (r, genes) of the spots `rows` (r,) of the bags."""
        corrected = predicted * self.slope + self.intercept
        if self.ridge is not None:
            corrected = corrected + self.ridge.predict(bags, rows=rows)
        return corrected.astype(np.float32)

    @property
    def fingerprint(self) -> str:
        """Content hash of all numbers."""
        ridge = self.ridge
        more = [] if ridge is None else [ridge.coef, ridge.intercept, ridge.low, ridge.high]
        more += [] if ridge is None else [ridge.scaler.mean, ridge.scaler.std]
        return digest(self.slope, self.intercept, *more)


def choose_strength(
    predicted: np.ndarray,
    targets: np.ndarray,
    bags: Bags,
    *,
    context: Sequence[str],
    rows: np.ndarray,
    slides: np.ndarray,
    patients: np.ndarray,
) -> float | None:
    """Return the strength of ridge with the highest r of the corrected prediction on held-out folds of `rows`.

    It is None if no strength has a higher r than the affine correction alone. The strength with the highest r of what
    is left over would not do: where nothing can be predicted of that, ridge adds noise to a good prediction.
    """
    features = context_features(bags, context)
    scores: dict[float | None, list[float]] = {alpha: [] for alpha in (None, *sorted(ALPHAS, reverse=True))}
    for train, test in make_folds(rows, slides, patients, position=bags.position).splits:
        slope, intercept = fit_affine(predicted[train], targets[train], slides[train])
        base = predicted * slope + intercept
        path = RidgePath.fit(features[train], targets[train] - base[train])
        rotated = path.rotate(features[test].clip(*path.bounds(CLIP)))
        for alpha, values in scores.items():
            more = 0.0 if alpha is None else rotated @ path.weights(alpha) * path.scaler.std
            values.append(mean_r(base[test] + more, targets[test], slides[test]))
    return max(scores, key=lambda alpha: np.mean(scores[alpha]))  # of equals the first


def fit_affine(predicted: np.ndarray, targets: np.ndarray, slides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and intercept (genes,) of the least squares of targets (n, genes) on predictions, NaN if unmeasured.

    The slope is at least 0.01 times the ratio of the standard deviations of targets and predictions, so an affine
    correction changes level and spread of a gene, and not its r.
    """
    known = np.isfinite(targets)
    count = known.sum(axis=0)
    x, y = (np.where(known, values, 0).astype(np.float64) for values in (predicted, targets))
    products, squares, measured = (np.zeros(x.shape[1]) for _ in range(3))
    for slide in np.unique(slides):
        mask = known & (slides == slide)[:, None]
        n = np.maximum(mask.sum(axis=0), 1)
        dx, dy = (np.where(mask, values - np.where(mask, values, 0).sum(axis=0) / n, 0) for values in (x, y))
        products, squares = products + (dx * dy).sum(axis=0), squares + (dx**2).sum(axis=0)
        measured += (dy**2).sum(axis=0)
    slope = np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
    ratio = np.divide(measured, squares, out=np.zeros_like(products), where=squares > 0) ** 0.5
    slope = np.maximum(slope, LEAST_SLOPE * ratio)
    n = np.maximum(count, 1)
    intercept = y.sum(axis=0) / n - slope * x.sum(axis=0) / n
    slope, intercept = np.where(count > 0, slope, 1), np.where(count > 0, intercept, 0)
    return slope.astype(np.float32), intercept.astype(np.float32)


class CorrectedModel(Model):
    """A model with a correction that was fitted to measured slides; see :func:`deepspot.models.calibrate`.

    `columns` are the genes of the base that it predicts, by their numbers.
    """

    def __init__(
        self, base: Model, correction: Correction, card: Card, ood: OODDetector, columns: np.ndarray | None = None
    ) -> None:
        self.base, self.correction, self.card, self.ood = base, correction, card, ood
        self.columns = np.arange(len(card.genes)) if columns is None else columns
        self.device, self.whole_slide = base.device, base.whole_slide
        self.spots_are_cells, self.has_cells = base.spots_are_cells, base.has_cells
        self.not_saved = base.not_saved or "bundles have no place for a ridge correction"

    def __repr__(self) -> str:
        kind = "affine" if self.correction.ridge is None else "ridge"
        return f"CorrectedModel ({kind}; scale {self.card.scale!r}) of {self.base!r}"

    @property
    def context(self) -> tuple[str, ...]:
        """Embeddings that the model uses: those of its base."""
        return self.base.context

    @property
    def fingerprint(self) -> str:
        """Content hash of the base, the correction and the calibration."""
        return digest(self.base.fingerprint, self.correction.fingerprint, self.columns, self.calibration_hash)

    def get_encoder(self, encoder: str | Encoder | None = None) -> Encoder:
        """Return the encoder of the base."""
        return self.base.get_encoder(encoder)

    def predict(self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression (n, genes) of all spots, or of `rows`: that of the base, corrected."""
        rows = which_rows(rows, len(bags))
        predicted = self.base.predict(bags, device=device or self.device, rows=rows)
        return self.correction.apply(predicted[:, self.columns], bags, rows)


def fold_in(model: FittedModel, correction: Correction) -> FittedModel:
    """Return a copy of a model with an affine correction in its scalers, so that it can be saved."""

    def scaled(scaler: Scaler) -> Scaler:
        return Scaler(scaler.mean * correction.slope + correction.intercept, scaler.std * correction.slope)

    corrected = copy(model)
    corrected.scaler = scaled(model.scaler)
    if model.weight < 1:
        corrected.ridge = copy(model.ridge)
        corrected.ridge.scaler = scaled(model.ridge.scaler)
    # They belong to predictions before the correction.
    corrected.out_of_fold = corrected.history = None
    return corrected
