"""How far a prediction can be trusted, gene by gene, as measured on patients that the model had not seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from deepspot._core.validate import check_same_length
from deepspot._stats.metrics import pearson, varies
from deepspot.errors import InputError

from .folds import Folds, Unit
from .gate import interval

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
        How true rates (in counts) lie about out-of-fold predictions, see
        :func:`deepspot._stats.gamma_poisson.residuals`: their variance relative to the square of the expected rate,
        without counting noise; and how much higher they are on the whole. The level tells of the fits without the
        held-out units as much as of the genes, so that a correction takes it from the slide instead. None for a model
        that was fitted to arrays, as they need the depth of spots.
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
    """Judge out-of-fold predictions (n, genes) gene by gene; r is computed within the `slides` (n,)."""
    units = folds.by_unit()
    by_unit = np.stack([_by_gene(predicted, targets, rows, slides) for rows in units])
    r, low, high = np.array([_spread(r[np.isfinite(r)]) for r in by_unit.T]).T
    half_width, reason = None, f"{folds.unit} of one patient were held out, and intervals are calibrated over patients"
    if folds.unit == "patients":
        held = np.concatenate(units)
        half_width, reason = calibrate(predicted[held] - targets[held], folds.labels[held], level=LEVEL)
    return Reliability(
        unit=folds.unit,
        n=len(units),
        r=_listed(r),
        r_low=_listed(low),
        r_high=_listed(high),
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
    return pd.DataFrame(parts).mean().to_numpy()


def _spread(r: np.ndarray) -> np.ndarray:
    """Mean and 90 % interval of the r of one gene in several units, as far as they can be known."""
    return np.clip(interval(r), -1, 1) if len(r) > 1 else np.array([*r, np.nan, np.nan, np.nan][:3])


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]


def least_patients(level: float) -> int:
    """Number of patients from which an interval of this level is finite and narrower than the largest error."""
    if not 0 < level < 1:
        raise InputError(f"`level` must lie between 0 and 1, got {level}.")
    return int(np.floor(level / (1 - level) + 1e-9)) + 1


def calibrate(residuals: np.ndarray, patients: np.ndarray, *, level: float = 0.8) -> tuple[np.ndarray | None, str]:
    """Half-width of prediction intervals per gene, by hierarchical conformal prediction.

    Spots of one patient are no independent evidence, so that a new patient is held exchangeable with the patients, not
    its spots with theirs: the half-width is the `level`-quantile of a mixture with equal weight 1/(P + 1) for the
    errors of each of P patients and the same weight for an infinite error.

    A spot of a new patient then lies within prediction ± half-width with probability `level` or more, on average over
    patients. That holds for a fixed predictor; out-of-fold errors come from several that learned from fewer patients
    than the final one, which as a rule makes intervals slightly too wide.

    `residuals` (n, genes) are predicted minus measured log-expression of spots whose patient was held out, NaN where
    unknown. Returned are half-widths (genes,) in float32, NaN for a gene that too few patients measured, and ``""``;
    with too few patients for any interval None, and a sentence that says so.

    References
    ----------
    Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", JASA 2022
    (pooling CDFs). The infinite error, which makes coverage hold for few patients too, is that of Lee, Barber and
    Willett, "Distribution-free inference with hierarchical data", 2023.
    """
    needed = least_patients(level)
    check_same_length(residuals, patients, "`residuals` and `patients`")
    codes = np.unique(patients, return_inverse=True)[1].ravel()
    n_patients = int(codes.max(initial=-1)) + 1
    if n_patients < needed:
        plural = "s" * (n_patients != 1)
        return None, f"{n_patients} patient{plural}: intervals at {100 * level:g} % need at least {needed}."
    half_width = [_half_width(np.abs(errors), codes, level, needed) for errors in residuals.T]
    return np.array(half_width, dtype=np.float32), ""


def _half_width(errors: np.ndarray, codes: np.ndarray, level: float, needed: int) -> float:
    """The `level`-quantile of the errors (n,) of one gene and of an infinite one, each patient weighing the same."""
    errors, codes = errors[known := np.isfinite(errors)], codes[known]
    spots = np.bincount(codes)
    n_patients = np.count_nonzero(spots)
    if n_patients < needed:
        return np.nan
    order = np.argsort(errors)
    reached = np.cumsum(1 / spots[codes[order]] / (n_patients + 1)) >= level - 1e-9
    return errors[order[reached.argmax()]]
