"""Registration check of the parts of a slide: a fold or a drift may misplace only some spots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from deepspot._spatial.transforms import pitch_px
from deepspot._stats.spatial_null import surrogates

from .align import MAX_GENES, Alignment, align
from .moves import AS_IS, MIN_OVERLAP, NEAR, make_few_moves
from .null import SMALL, standardize

MIN_PART = 40  # spots
MAX_PARTS_ALONG = 4
# Share of the spots in a part that can make the whole slide misaligned. Without it, at least half must be left.
PART_OF_MISALIGNED = 0.2, 0.51
MAX_SPOTS = 1000  # the eigenvectors of more spots take long
N_FIELDS = 99
COMPONENTS = 20
# Standard deviations by which the gain of a misplaced part exceeds that of aligned slides. Chosen on the pairs that
# benchmarks/alignment_parts.py names.
MISPLACED = 4.0
# Standard deviations by which a part fits better than unrelated fields, where it is and at the best place: p = 0.01
# and 0.05.
ALIGNED, FITS = 2.33, 1.64
# Share of the r at the best place that a misplaced part may have where it is. A model of other tissue is wrong in whole
# regions, which then fit a little better elsewhere.
MOST_IN_PLACE = 0.8


def align_with_parts(
    measured: np.ndarray,
    measured_um: np.ndarray,
    predicted: np.ndarray,
    predicted_um: np.ndarray,
    *,
    max_shift: float = 3.0,
    seed: int = 0,
) -> tuple[Alignment, np.ndarray]:
    """Check a slide and its parts: return the result, and whether each measured spot (n,) is misplaced within it.

    The arguments are those of `align`, with all shared genes: the slide is compared by the genes that are detected in
    most spots.
    """
    places: dict[str, Any] = {
        "measured_um": measured_um,
        "predicted_um": predicted_um,
        "max_shift": max_shift,
        "seed": seed,
    }
    often = np.argsort(-(measured > 0).sum(axis=0), kind="stable")[:MAX_GENES]
    a, b = measured[:, often], predicted[:, often]
    result = align(measured=a, predicted=b, **places)
    if result.verdict == "misaligned":
        names, spots = misplaced_alone(result, measured=a, predicted=b, **places)
    else:
        names, spots = misplaced(measured=measured, predicted=predicted, **places)
    return (replace(result, verdict="partly misaligned", misplaced=names) if names else result), spots


def parts(centers_um: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of the parts of a slide by name, from centers (n, 2); parts need enough spots.

    Parts are halves, thirds, two thirds, quarters, and smaller rectangles.
    """
    x, y = centers_um.T
    halves = {"left": (x, 0), "right": (x, 1), "upper": (y, 0), "lower": (y, 1)}
    rows_of = {f"{name} half": np.flatnonzero(_bands(values, 2) == i) for name, (values, i) in halves.items()}
    for names, values in ((("left", "middle", "right"), x), (("upper", "central", "lower"), y)):
        bands = _bands(values, 3)
        for i, name in enumerate(names):
            rows_of[f"{name} third"] = np.flatnonzero(bands == i)
            others = " and ".join(other for other in names if other != name)
            rows_of[f"{others} thirds"] = np.flatnonzero(bands != i)
    rows_of |= _rectangles(x, y)
    return {name: rows for name, rows in rows_of.items() if MIN_PART <= len(rows) <= len(x) - MIN_PART}


def misplaced(
    measured: np.ndarray,
    measured_um: np.ndarray,
    predicted: np.ndarray,
    predicted_um: np.ndarray,
    *,
    max_shift: float = 3.0,
    seed: int = 0,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of misplaced parts, and whether each measured spot (n,) is in the part that stands out most.

    The arguments are those of `align`; genes are the 200 with the largest predicted variance. For each part, the gain
    of the best distant move is compared with its gains on aligned slides. These are simulated: the predicted values,
    times their regression coefficient, plus residuals at random positions. Moves of a part to a place that looks the
    same gain little there, other moves lose, and so a large part needs a smaller gain than a small one. The best move
    must also fit better than unrelated fields, the residuals alone, and clearly better than the part where it is.
    Another part must be aligned, which shows that the prediction can locate spots on this slide.
    """
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    n, pitch = len(measured), pitch_px(predicted_um)
    sample = np.sort(rng.choice(n, MAX_SPOTS, replace=False)) if n > MAX_SPOTS else np.arange(n)
    um = measured_um[sample]
    a, b = _components(measured[sample], predicted)
    here = make_few_moves(um, predicted_um, pitch, 0.0).nearest[0]
    known = here >= 0
    um, a, here = um[known], a[known], here[known]
    candidates = parts(um)
    if not candidates:
        return (), np.zeros(n, dtype=bool)
    slope = max(float((a * b[here]).sum() / max((b[here] ** 2).sum(), SMALL)), 0.0)
    fitted = slope * b[here]
    residuals = np.stack(list(surrogates((a - fitted) - (a - fitted).mean(axis=0), um, N_FIELDS, rng)))
    fields = np.concatenate([a[None], fitted + residuals, residuals])
    found, aligned = {}, False
    worst, worst_rows = 0.0, np.arange(0)
    for name, rows in candidates.items():
        moves = make_few_moves(um[rows], predicted_um, pitch, max_shift)
        enough = np.flatnonzero(moves.overlap >= MIN_OVERLAP)
        far = (moves.symmetry[enough] != AS_IS) | (np.abs(moves.shift[enough]).max(axis=1) > (NEAR + SMALL) * pitch)
        r = _correlations(fields[:, rows], moves.nearest[enough], b)
        observed, of_aligned, of_unrelated = r[0], r[1 : N_FIELDS + 1], r[N_FIELDS + 1 :]
        # With fewer spots, chance reaches a higher r.
        score, by_chance = (values * np.sqrt(moves.overlap[enough]) for values in (observed, of_unrelated))
        best = score.argmax()
        if not far[best]:
            aligned |= bool(_excess(observed[0], of_unrelated[:, 0]) >= ALIGNED)
            continue
        if observed[0] > MOST_IN_PLACE * observed[best]:
            continue
        gain = (r - r[:, :1])[: N_FIELDS + 1, far]
        largest = (gain / np.maximum((of_aligned - of_aligned[:, :1])[:, far].std(axis=0), SMALL)).max(axis=1)
        excess = _excess(largest[0], largest[1:])
        if excess >= MISPLACED and _excess(score[best], by_chance.max(axis=1)) >= FITS:
            found[name] = rows
            if excess > worst:
                worst, worst_rows = excess, rows
    if not (found and aligned):
        return (), np.zeros(n, dtype=bool)
    # Spots that were not sampled are like the nearest one that was.
    return tuple(found), np.isin(cKDTree(um).query(measured_um)[1], worst_rows)


def misplaced_alone(
    whole: Alignment,
    measured: np.ndarray,
    measured_um: np.ndarray,
    predicted: np.ndarray,
    predicted_um: np.ndarray,
    *,
    max_shift: float = 3.0,
    seed: int = 0,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the part without which a misaligned slide is aligned, and whether each measured spot (n,) is in it.

    A large misplaced part makes the slide as a whole fit better elsewhere, although the rest is in place. The rest must
    be aligned, and must not fit better after the best move of the whole slide, as it does if that is shifted a little.
    The part must fit clearly better elsewhere. Of several such parts it is the one with the best fit of the rest. The
    result is empty if there is none.
    """
    n = len(measured)
    known = np.flatnonzero(make_few_moves(measured_um, predicted_um, pitch_px(predicted_um), 0.0).nearest[0] >= 0)
    smallest, largest = (share * len(known) for share in PART_OF_MISALIGNED)
    best, spots = 0.0, np.zeros(n, dtype=bool)
    names: tuple[str, ...] = ()
    for name, rows in parts(measured_um[known]).items():
        if not smallest <= len(rows) <= largest:
            continue
        kept = np.delete(known, rows)
        rest = align(measured[kept], measured_um[kept], predicted, predicted_um, max_shift=max_shift, seed=seed)
        moved = rest.table["r"].iloc[whole.best]  # NaN if that leaves the tissue
        if rest.verdict != "aligned" or moved >= rest.r_as_is or rest.r_as_is <= best:
            continue
        at = known[rows]
        part = align(measured[at], measured_um[at], predicted, predicted_um, max_shift=max_shift, seed=seed)
        if part.r_as_is < MOST_IN_PLACE * part.r:
            best, names, spots = rest.r_as_is, (name,), np.isin(np.arange(n), at)
    return names, spots


def _components(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of predicted genes with large variance, and the same components as measured.

    A gene that is predicted well has a large predicted variance; components without it would add noise.
    """
    vary = np.flatnonzero((np.ptp(measured, axis=0) > 0) & (np.ptp(predicted, axis=0) > 0))
    genes = vary[np.argsort(-predicted[:, vary].std(axis=0), kind="stable")[:MAX_GENES]]
    a, b = standardize(measured[:, genes]), standardize(predicted[:, genes])
    loadings = np.linalg.svd(b, full_matrices=False)[2][:COMPONENTS].T
    return a @ loadings, b @ loadings


def _excess(value: float, simulated: np.ndarray) -> float:
    return float((value - simulated.mean()) / max(simulated.std(), SMALL))


def _correlations(fields: np.ndarray, nearest: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the correlation (f, c) of fields (f, n, k) with the predicted spots nearest to them (c, n) by each move.

    As in `Agreement`, but for many fields at once.
    """
    kept = (nearest >= 0).astype(np.float32)
    count = kept.sum(axis=1)
    near = predicted[np.maximum(nearest, 0)] * kept[:, :, None]
    predicted_mean = near.sum(axis=1) / count[:, None]
    mean = np.einsum("cn,fnk->fck", kept, fields, optimize=True) / count[:, None]
    covariance = fields.reshape(len(fields), -1) @ near.reshape(len(near), -1).T / count
    covariance -= (mean * predicted_mean).sum(axis=2)
    variance = (fields**2).sum(axis=2) @ kept.T / count - (mean**2).sum(axis=2)
    predicted_variance = (near**2).sum(axis=(1, 2)) / count - (predicted_mean**2).sum(axis=1)
    return covariance / np.sqrt(np.maximum(variance, SMALL) * np.maximum(predicted_variance, SMALL))


def _rectangles(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    rows_of = {}
    for k in _grids(len(x)):
        columns, rows = _bands(x, k), _bands(y, k)
        for i, j in np.ndindex(k, k):
            name = f"part {i + 1} of {k} from the top and {j + 1} of {k} from the left"
            if k == 2:
                name = f"{('upper', 'lower')[i]} {('left', 'right')[j]} quarter"
            rows_of[name] = np.flatnonzero((rows == i) & (columns == j))
    return rows_of


def _grids(n: int) -> Iterator[int]:
    for k in range(2, MAX_PARTS_ALONG + 1):
        if n >= k * k * MIN_PART:
            yield k


def _bands(values: np.ndarray, n: int) -> np.ndarray:
    """Return the band of each value, of n bands with equal numbers of values."""
    return np.searchsorted(np.quantile(values, np.arange(1, n) / n), values, side="left")
