"""How far a prediction may be off for a new patient, calibrated over patients and not over spots."""

from __future__ import annotations

import numpy as np

from deepspot._check import same_length

# Entries that are sorted at once: keeps the working memory near 100 MB.
CHUNK = 2_000_000


def least_patients(level: float) -> int:
    """Number of patients from which an interval of this level is finite and narrower than the largest error."""
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
    return int(np.floor(level / (1 - level) + 1e-9)) + 1


def calibrate(residuals: np.ndarray, patients: np.ndarray, *, level: float = 0.8) -> tuple[np.ndarray | None, str]:
    """Half-width of prediction intervals per gene, by hierarchical conformal prediction.

    Spots of one patient are no independent evidence, so that a new patient is held exchangeable with the patients, not
    its spots with theirs: the half-width is the `level`-quantile of a mixture with equal weight 1/(P + 1) for the
    errors of each of P patients and the same weight for an infinite error.

    A spot of a new patient then lies within prediction ± half-width with probability `level` or more, on average over
    patients. That holds for a fixed predictor; out-of-fold errors come from several that learnt from fewer patients
    than the final one, which as a rule makes intervals slightly too wide.

    Parameters
    ----------
    residuals
        (n, genes) predicted minus measured log-expression of spots whose patient was held out; NaN where unknown.
    patients
        (n,) patient of every spot.
    level
        Wanted coverage.

    Returns
    -------
    Half-width (genes,) in float32, NaN for a gene that too few patients measured, and ``""``. With too few patients
    for any interval None, and a sentence that says so.

    Raises
    ------
    ValueError
        If `level` is not between 0 and 1, or the arrays do not fit together.

    References
    ----------
    Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", JASA 2022
    (pooling CDFs). The infinite error, which makes coverage hold for few patients too, is that of Lee, Barber and
    Willett, "Distribution-free inference with hierarchical data", 2023.
    """
    needed = least_patients(level)
    same_length(residuals, patients, "`residuals` and `patients`")
    codes = np.unique(patients, return_inverse=True)[1].ravel()
    n_patients = int(codes.max(initial=-1)) + 1
    if n_patients < needed:
        plural = "s" * (n_patients != 1)
        return None, f"{n_patients} patient{plural}: intervals at {100 * level:g} % need at least {needed}."
    half_width = np.full(residuals.shape[1], np.nan, dtype=np.float32)
    step = max(1, CHUNK // len(residuals))
    for start in range(0, len(half_width), step):
        genes = slice(start, start + step)
        half_width[genes] = _quantile(np.abs(residuals[:, genes]), codes, n_patients, level, needed)
    return half_width, ""


def _quantile(errors: np.ndarray, codes: np.ndarray, n_patients: int, level: float, needed: int) -> np.ndarray:
    known = np.isfinite(errors)
    spots = np.zeros((n_patients, errors.shape[1]))
    np.add.at(spots, codes, known)
    measuring = (spots > 0).sum(axis=0)
    weights = np.where(known, 1 / np.maximum(spots, 1)[codes], 0) / (measuring + 1)
    order = np.argsort(np.where(known, errors, np.inf), axis=0)
    reached = np.cumsum(np.take_along_axis(weights, order, axis=0), axis=0) >= level - 1e-9
    first = np.take_along_axis(order, reached.argmax(axis=0)[None], axis=0)
    return np.where(measuring >= needed, np.take_along_axis(errors, first, axis=0)[0], np.nan)
