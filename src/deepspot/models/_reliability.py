"""How far a prediction can be trusted, gene by gene, as measured on patients that the model had not seen."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from deepspot._metrics import pearson, varies

from ._folds import Folds, Unit
from ._gate import interval

LEVEL = 0.8
DIGITS = 4


class Reliability(BaseModel):
    """Agreement of a model with units that its fits did not see, by gene in the order of the card.

    Attributes
    ----------
    unit, n
        What was held out in turn, and how many. With one patient the slides, or parts of the slide, are held out in
        turn: r is then too high for the next patient.
    r, r_low, r_high
        Expected Pearson r within a slide: mean over units and its 90 % interval (Student's t). None where the gene
        did not vary in any slide; no interval where it did in a single unit.
    level, half_width
        Share of the measurements that ``prediction ± half_width`` covers on the next patient, calibrated over patients
        (conformal); None where they are too few.
    why_no_interval
        Reason if `half_width` is None.
    dispersion, rate_level
        How true rates (in counts) lie about out-of-fold predictions, see :func:`deepspot._posterior.residuals`: their
        variance relative to the square of the expected rate, without counting noise; and how much higher they are on
        the whole. None for a model that was fitted to arrays, as they need the depth of spots.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit
    n: int
    r: list[float | None]
    r_low: list[float | None]
    r_high: list[float | None]
    level: float = LEVEL
    half_width: list[float | None] | None = None
    why_no_interval: str = ""
    dispersion: list[float | None] | None = None
    rate_level: list[float | None] | None = None


def measure_reliability(predicted: np.ndarray, targets: np.ndarray, folds: Folds, slides: np.ndarray) -> Reliability:
    """Judge out-of-fold predictions gene by gene.

    Parameters
    ----------
    predicted
        (n, genes) expression, for every row by a fit that did not see its unit.
    targets
        (n, genes) what was measured.
    folds, slides
        Units, and (n,) slides: r is computed within them.
    """
    from ._intervals import calibrate

    held = np.concatenate([rows for _, rows in folds.splits])
    names = np.unique(folds.labels[held])
    by_unit = np.stack([_by_gene(predicted, targets, held[folds.labels[held] == name], slides) for name in names])
    spread = np.array([_spread(r[np.isfinite(r)]) for r in by_unit.T])
    half_width, reason = None, f"{folds.unit} of one patient were held out, and intervals are calibrated over patients"
    if folds.unit == "patients":
        half_width, reason = calibrate(np.abs(predicted[held] - targets[held]), folds.labels[held], level=LEVEL)
    r, low, high = (
        [None if np.isnan(value) else round(float(value), DIGITS) for value in column] for column in spread.T
    )
    return Reliability(
        unit=folds.unit,
        n=len(names),
        r=r,
        r_low=low,
        r_high=high,
        half_width=None if half_width is None else _listed(half_width),
        why_no_interval=reason,
    )


def _by_gene(predicted: np.ndarray, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray) -> np.ndarray:
    """Pearson r by gene, mean over the slides of a unit where the gene varies; 0 for a constant prediction."""
    parts = []
    for slide in np.unique(slides[rows]):
        these = rows[slides[rows] == slide]
        r = np.nan_to_num(pearson(predicted[these], targets[these]))
        parts.append(np.where(varies(targets[these]), r, np.nan))
    known = np.isfinite(parts)
    total = np.where(known, parts, 0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))


def _spread(r: np.ndarray) -> tuple[float, float, float]:
    if len(r) < 2:
        return (float(r[0]) if len(r) else np.nan), np.nan, np.nan
    mean, low, high = np.clip(interval(r), -1, 1)
    return mean, low, high


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]
