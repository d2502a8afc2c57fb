"""Registration check of the parts of a slide: a fold or a drift may misplace only some spots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepspot._spatial.transforms import pitch_px

from .align import CONFIDENCE, Alignment, align, is_near
from .moves import MIN_OVERLAP, make_few_moves

MIN_PART = 40  # spots
MAX_PARTS_ALONG = 4
CHANCE = 0.05  # largest p of a misplaced part


def parts(centers_um: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of halves, quarters and smaller parts by name, from centers (n, 2); parts need enough spots."""
    rows_of = {}
    for n_rows, n_columns in _grids(len(centers_um)):
        columns, rows = _bands(centers_um[:, 0], n_columns), _bands(centers_um[:, 1], n_rows)
        for i, j in np.ndindex(n_rows, n_columns):
            members = np.flatnonzero((rows == i) & (columns == j))
            if len(members) >= MIN_PART:
                rows_of[_name(i, n_rows, j, n_columns)] = members
    return rows_of


def align_parts(
    measured: np.ndarray,
    measured_um: np.ndarray,
    predicted: np.ndarray,
    predicted_um: np.ndarray,
    *,
    max_shift: float = 3.0,
    seed: int = 0,
) -> dict[str, Alignment]:
    """Align each part of a slide with the prediction around it; the arguments are those of `align`.

    The confidence of a gain is corrected for the number of parts (Bonferroni).
    """
    pitch, alignments = pitch_px(predicted_um), {}
    candidates = parts(measured_um)
    for name, rows in candidates.items():
        um = measured_um[rows]
        low, high = um.min(axis=0) - max_shift * pitch, um.max(axis=0) + max_shift * pitch
        around = ((predicted_um >= low) & (predicted_um <= high)).all(axis=1)
        if around.sum() < 2 or make_few_moves(um, predicted_um[around], pitch, 0.0).overlap[0] < MIN_OVERLAP:
            continue  # the part has no prediction
        vary = (np.ptp(measured[rows], axis=0) > 0) & (np.ptp(predicted[around], axis=0) > 0)
        if vary.any():
            alignments[name] = align(
                measured[rows][:, vary],
                um,
                predicted[around][:, vary],
                predicted_um[around],
                max_shift=max_shift,
                confidence=1 - (1 - CONFIDENCE) / len(candidates),
                make=make_few_moves,
                seed=seed,
            )
    return alignments


def misplaced(alignments: dict[str, Alignment]) -> list[str]:
    """Return the names of misplaced parts: a place more than one spot away is significantly better.

    Another part must be aligned, which shows that the prediction can locate spots on this slide: a few spots may match
    somewhere by chance.
    """
    if not any(part.verdict == "aligned" for part in alignments.values()):
        return []
    return [
        name
        for name, part in alignments.items()
        if part.gain_low > 0 and part.p_best <= CHANCE and not is_near(part.table.loc[part.best])
    ]


def _grids(n: int) -> Iterator[tuple[int, int]]:
    if n >= 2 * MIN_PART:
        yield 1, 2
        yield 2, 1
    for k in range(2, MAX_PARTS_ALONG + 1):
        if n >= k * k * MIN_PART:
            yield k, k


def _bands(values: np.ndarray, n: int) -> np.ndarray:
    """Return the band of each value, of n bands with equal numbers of values."""
    return np.searchsorted(np.quantile(values, np.arange(1, n) / n), values, side="left")


def _name(i: int, n_rows: int, j: int, n_columns: int) -> str:
    if max(n_rows, n_columns) > 2:
        return f"part {i + 1} of {n_rows} from the top and {j + 1} of {n_columns} from the left"
    names = [("upper", "lower")[i]] * (n_rows == 2) + [("left", "right")[j]] * (n_columns == 2)
    return " ".join([*names, "quarter" if n_rows == n_columns else "half"])
