"""Reliability of every gene and prediction intervals, from held-out patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from deepspot._core.logging import count_of
from deepspot._core.validate import check_same_length
from deepspot._stats.metrics import pearson, varies
from deepspot._stats.patterns import beyond_first_axis, compare_patterns
from deepspot.errors import InputError

from .folds import Folds, Unit
from .next_slide import next_slide_interval

LEVEL = 0.8
DIGITS = 4


class Reliability(BaseModel):
    """Agreement of out-of-fold predictions with measurements, by gene in the order of the card.

    Attributes
    ----------
    unit, n
        Held-out unit and its number. With one patient these are its slides, or parts of its slide: r is then too high
        for other patients.
    r, r_low, r_high
        Expected Pearson r within a slide: mean over units, and the 90 % interval of r on the next slide of a new
        patient. r is None for a gene that is constant in all slides. The interval is None for a gene that varies in
        fewer than three patients, and for all genes if patients were not held out.
    r_n
        Units in which the gene varies. None for models of earlier versions. These have intervals of the mean over
        patients, which are too narrow for the next slide and are not read.
    r_beyond_axis
        The same as `r`, after the first principal component of the measured genes of a slide was regressed out of both
        the prediction and the measurement; see :func:`deepspot.tl.evaluate`. None as for `r`, and for models of earlier
        versions.
    r_ceiling
        Highest r that a perfect prediction can have with the measured counts of the training slides: mean over slides.
        None for a gene whose counts are too few to tell, and for a model that was fitted to arrays.
    patterns_predicted, patterns_measured, gene_agreement
        Effective number of patterns of the genes, predicted and measured, and correlation between the predicted and the
        measured correlations of pairs of genes: means over held-out slides.
    level, half_width
        Share of the measurements of a new patient that ``prediction ± half_width`` covers, calibrated over patients
        (conformal); None with too few patients.
    why_no_interval
        Reason if `half_width` is None.
    dispersion, rate_level
        Variance of the true rates about out-of-fold predictions, relative to the square of the expected rate and
        without counting noise, and the ratio of true to predicted rates over all spots; see the page on correction. The
        level depends on the fits of the folds as well as on the genes, so a correction estimates it from the slide
        instead. None for a model that was fitted to arrays, because both need the depth of spots.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit
    n: int
    r: list[float | None]
    r_low: list[float | None]
    r_high: list[float | None]
    r_n: list[int] | None = None
    r_beyond_axis: list[float | None] | None = None
    r_ceiling: list[float | None] | None = None
    patterns_predicted: float | None = None
    patterns_measured: float | None = None
    gene_agreement: float | None = None
    level: float = LEVEL
    half_width: list[float | None] | None = None
    why_no_interval: str = ""
    dispersion: list[float | None] | None = None
    rate_level: list[float | None] | None = None

    def __repr__(self) -> str:
        known = [r for r in self.r if r is not None]
        median = f", median r {np.median(known):.2f}" if known else ""
        return f"Reliability of {len(self.r):,} genes on {self.n} held-out {self.unit}{median}"

    def __str__(self) -> str:
        return repr(self)


def measure_reliability(predicted: np.ndarray, targets: np.ndarray, folds: Folds, slides: np.ndarray) -> Reliability:
    """Measure the reliability of out-of-fold predictions (n, genes); r is computed within the `slides` (n,)."""
    units = folds.by_unit()
    r, n, low, high = summarize(r_of_units(predicted, targets, folds, slides))
    pairs = [[(predicted[rows], targets[rows]) for rows in _rows_by_slide(unit, slides)] for unit in units]
    beyond = pd.DataFrame([pd.DataFrame([beyond_first_axis(*pair) for pair in unit]).mean() for unit in pairs]).mean()
    patterns = pd.DataFrame([pd.DataFrame([compare_patterns(*pair) for pair in unit]).mean() for unit in pairs]).mean()
    if folds.unit != "patients":
        low, high = np.full((2, len(r)), np.nan)
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
        r_n=n.tolist(),
        r_beyond_axis=_listed(beyond.to_numpy()),
        **dict(zip(patterns.index, _listed(patterns.to_numpy()), strict=True)),
        half_width=None if half_width is None else _listed(half_width),
        why_no_interval=reason,
    )


def r_of_units(predicted: np.ndarray, targets: np.ndarray, folds: Folds, slides: np.ndarray) -> list[np.ndarray]:
    """Return r (slides, genes) by held-out unit: NaN for a constant gene, 0 for a constant prediction."""
    return [
        np.stack([_r(predicted[rows], targets[rows]) for rows in _rows_by_slide(unit, slides)])
        for unit in folds.by_unit()
    ]


def _r(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.where(varies(targets), np.nan_to_num(pearson(predicted, targets)), np.nan)


def _rows_by_slide(rows: np.ndarray, slides: np.ndarray) -> list[np.ndarray]:
    return [rows[slides[rows] == slide] for slide in np.unique(slides[rows])]


def summarize(by_slide: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return by gene mean r, its number of units, and the interval for the next slide, from r (slides, genes) by unit.

    A unit counts once, with the mean over its slides.
    """
    by_unit = pd.DataFrame([pd.DataFrame(r).mean() for r in by_slide])
    r = by_unit.mean().to_numpy()
    units = np.repeat(np.arange(len(by_slide)), [len(part) for part in by_slide])
    low, high = next_slide_interval(np.concatenate(by_slide), units)
    # The center of the interval is a mean on another scale than `r`.
    return r, by_unit.notna().sum().to_numpy(), np.minimum(low, r), np.maximum(high, r)


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]


def least_patients(level: float) -> int:
    """Return the number of patients from which an interval of this level is finite."""
    if not 0 < level < 1:
        raise InputError(f"`level` must be between 0 and 1, got {level}.")
    return int(np.floor(level / (1 - level) + 1e-9)) + 1


def calibrate(residuals: np.ndarray, patients: np.ndarray, *, level: float = 0.8) -> tuple[np.ndarray | None, str]:
    """Return the half-width of prediction intervals by gene, by hierarchical conformal prediction.

    Spots of one patient are not independent, so patients are taken as exchangeable, not spots: the half-width is the
    `level`-quantile of a mixture with weight 1/(P + 1) for the errors of each of P patients and for an infinite error.

    A spot of a new patient is then within prediction ± half-width with probability `level` or more, on average over
    patients. This holds for a fixed predictor. Out-of-fold errors come from several predictors with fewer training
    patients than the final one, which usually makes intervals slightly too wide.

    `residuals` (n, genes) are predicted minus measured log-expression of held-out spots, NaN where unknown. Returns
    half-widths (genes,) in float32, NaN for a gene that too few patients measured, and ``""``; with too few patients
    None and the reason.

    References
    ----------
    Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", JASA 2022
    (pooling CDFs). The infinite error, which gives coverage with few patients too, is from Lee, Barber and Willett,
    "Distribution-free inference with hierarchical data", 2023.
    """
    needed = least_patients(level)
    check_same_length(residuals, patients, "`residuals` and `patients`")
    codes = np.unique(patients, return_inverse=True)[1].ravel()
    n_patients = int(codes.max(initial=-1)) + 1
    if n_patients < needed:
        return None, f"{count_of(n_patients, 'patient')}: intervals at {100 * level:g} % need at least {needed}."
    half_width = [_half_width(np.abs(errors), codes, level, needed) for errors in residuals.T]
    return np.array(half_width, dtype=np.float32), ""


def _half_width(errors: np.ndarray, codes: np.ndarray, level: float, needed: int) -> float:
    """Return the `level`-quantile of the errors (n,) of one gene and an infinite one, with equal weight by patient."""
    errors, codes = errors[known := np.isfinite(errors)], codes[known]
    spots = np.bincount(codes)
    n_patients = np.count_nonzero(spots)
    if n_patients < needed:
        return np.nan
    order = np.argsort(errors)
    reached = np.cumsum(1 / spots[codes[order]] / (n_patients + 1)) >= level - 1e-9
    return errors[order[reached.argmax()]]
