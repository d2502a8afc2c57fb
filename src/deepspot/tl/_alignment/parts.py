"""The registration check on parts of a slide: a fold or a drift may misplace some spots and leave the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepspot._spatial.transforms import pitch_px

from .align import CONFIDENCE, NEAR, Alignment, align
from .moves import AS_IS, MIN_OVERLAP, make_few_moves

# Fewer spots cannot tell one place from another.
MIN_PART = 40
MAX_PARTS_ALONG = 4
# A part fits somewhere so well by chance this seldom.
CHANCE = 0.05


def parts(centers_um: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the halves, quarters and so on of a slide, by name; none where they would have too few spots.

    Parameters
    ----------
    centers_um
        (n, 2) x and y, y downwards.
    """
    found = {}
    for down, along in _grids(len(centers_um)):
        columns = _bands(centers_um[:, 0], along)
        rows = _bands(centers_um[:, 1], down)
        for i, j in np.ndindex(down, along):
            members = np.flatnonzero((rows == i) & (columns == j))
            if len(members) >= MIN_PART:
                found[_name(i, down, j, along)] = members
    return found


def align_parts(
    measured: np.ndarray,
    measured_um: np.ndarray,
    predicted: np.ndarray,
    predicted_um: np.ndarray,
    *,
    max_shift: float = 3.0,
    seed: int = 0,
) -> dict[str, Alignment]:
    """Align every part of a slide with the prediction around it.

    A part is turned and mirrored about its own middle. The confidence with which a gain has to be above 0 is divided
    among the parts, so that a slide that lies right is not called wrong for being looked at so often.

    Parameters
    ----------
    measured, measured_um, predicted, predicted_um, max_shift, seed
        As in :func:`deepspot.tl._alignment.align.align`.
    """
    pitch, found = pitch_px(predicted_um), {}
    reach = max_shift * pitch
    judged = parts(measured_um)
    for name, rows in judged.items():
        low, high = measured_um[rows].min(axis=0) - reach, measured_um[rows].max(axis=0) + reach
        around = ((predicted_um >= low) & (predicted_um <= high)).all(axis=1)
        if not _covered(measured_um[rows], predicted_um[around], pitch):
            continue
        # A gene may be flat in a part.
        vary = (np.ptp(measured[rows], axis=0) > 0) & (np.ptp(predicted[around], axis=0) > 0)
        if vary.any():
            found[name] = align(
                measured[rows][:, vary],
                measured_um[rows],
                predicted[around][:, vary],
                predicted_um[around],
                max_shift=max_shift,
                confidence=1 - (1 - CONFIDENCE) / len(judged),
                make=make_few_moves,
                seed=seed,
            )
    return found


def _covered(measured_um: np.ndarray, predicted_um: np.ndarray, pitch: float) -> bool:
    """Whether enough spots of a part have a prediction where they lie."""
    if len(predicted_um) < 2:
        return False
    return float(make_few_moves(measured_um, predicted_um, pitch, 0.0).overlap[0]) >= MIN_OVERLAP


def misplaced(found: dict[str, Alignment]) -> list[str]:
    """Names of the parts that lie wrongly: another place, more than a spot away, is better beyond doubt.

    Chance may fit few spots well anywhere. So a part needs an agreement that chance seldom reaches, and another part
    that is aligned, which proves that the prediction tells places on this slide apart.
    """
    if not any(part.verdict == "aligned" for part in found.values()):
        return []
    return [name for name, part in found.items() if part.gain_low > 0 and part.p_best <= CHANCE and _is_far(part)]


def _is_far(part: Alignment) -> bool:
    place = part.table.loc[part.best]
    return place["symmetry"] != AS_IS or max(abs(place["dx_pitches"]), abs(place["dy_pitches"])) > NEAR


def _grids(n: int) -> Iterator[tuple[int, int]]:
    if n >= 2 * MIN_PART:
        yield 1, 2
        yield 2, 1
    for k in range(2, MAX_PARTS_ALONG + 1):
        if n >= k * k * MIN_PART:
            yield k, k


def _bands(values: np.ndarray, n: int) -> np.ndarray:
    """Number of the band of equal count that every value falls into."""
    inner = np.quantile(values, np.arange(1, n) / n)
    return np.searchsorted(inner, values, side="left")


def _name(i: int, down: int, j: int, along: int) -> str:
    if max(down, along) > 2:
        return f"part {i + 1} of {down} from the top and {j + 1} of {along} from the left"
    words = [("upper", "lower")[i]] * (down == 2) + [("left", "right")[j]] * (along == 2)
    return " ".join([*words, "quarter" if down * along == 4 else "half"])
