"""Registration check of the parts of a slide: a fold or a drift may misplace only some spots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepspot._spatial.transforms import pitch_px
from deepspot._stats.spatial_null import surrogates

from .moves import AS_IS, MIN_OVERLAP, NEAR, make_few_moves
from .null import SMALL, standardize

MIN_PART = 40  # spots
MAX_PARTS_ALONG = 4
MAX_SPOTS = 1000  # the eigenvectors of more spots take long
N_FIELDS = 99
GENES, COMPONENTS = 200, 20
# Standard deviations by which the gain of a misplaced part exceeds that of aligned slides. Chosen on sections other
# than those of benchmarks/alignment_parts.py.
MISPLACED = 3.5
ALIGNED = 2.33  # standard deviations by which a part fits better than unrelated fields: p = 0.01
SMOOTH = 1.5  # pitches over which the evidence of spots is averaged


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
            rows_of[f"all but the {name} third"] = np.flatnonzero(bands != i)
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
    """Return the names of misplaced parts, and whether each measured spot (n,) is misplaced.

    The arguments are those of `align`; genes are the 200 with the largest predicted variance. For each part, the gain
    of the best distant move is compared with its gains on aligned slides. These are simulated: the predicted values,
    times their regression coefficient, plus residuals at random positions. Moves of a part to a place that looks the
    same gain little there, other moves lose, and so a large part needs a smaller gain than a small one.

    Another part must be aligned, which shows that the prediction can locate spots on this slide.
    """
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
    for name, rows in candidates.items():
        moves = make_few_moves(um[rows], predicted_um, pitch, max_shift)
        enough = np.flatnonzero(moves.overlap >= MIN_OVERLAP)
        far = (moves.symmetry[enough] != AS_IS) | (np.abs(moves.shift[enough]).max(axis=1) > (NEAR + SMALL) * pitch)
        r = _correlations(fields[:, rows], moves.nearest[enough], b)
        observed, of_aligned, of_unrelated = r[0], r[1 : N_FIELDS + 1], r[N_FIELDS + 1 :]
        fit = (observed[0] - of_unrelated[:, 0].mean()) / of_unrelated[:, 0].std()
        score = observed * np.sqrt(moves.overlap[enough])
        aligned |= bool(fit >= ALIGNED and not far[score.argmax()])
        if not far.any():
            continue
        gain = (r - r[:, :1])[: N_FIELDS + 1, far]
        largest = (gain / np.maximum((of_aligned - of_aligned[:, :1])[:, far].std(axis=0), SMALL)).max(axis=1)
        excess = (largest[0] - largest[1:].mean()) / max(largest[1:].std(), SMALL)
        if largest[0] > 0 and excess >= MISPLACED:
            found[name] = rows
    if not (found and aligned):
        return (), np.zeros(n, dtype=bool)
    doubtful = np.zeros(len(um), dtype=bool)
    doubtful[np.concatenate(list(found.values()))] = True
    return tuple(found), _mismatched(a, b[here], um, doubtful, measured_um, pitch)


def _components(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of predicted genes with large variance, and the same components as measured.

    A gene that is predicted well has a large predicted variance; components without it would add noise.
    """
    vary = np.flatnonzero((np.ptp(measured, axis=0) > 0) & (np.ptp(predicted, axis=0) > 0))
    genes = vary[np.argsort(-predicted[:, vary].std(axis=0), kind="stable")[:GENES]]
    a, b = standardize(measured[:, genes]), standardize(predicted[:, genes])
    loadings = np.linalg.svd(b, full_matrices=False)[2][:COMPONENTS].T
    return a @ loadings, b @ loadings


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


def _mismatched(
    measured: np.ndarray,
    predicted: np.ndarray,
    um: np.ndarray,
    doubtful: np.ndarray,
    all_um: np.ndarray,
    pitch: float,
) -> np.ndarray:
    """Return whether each spot at `all_um` does not match the image, from the spots (n, k) at `um` around it.

    Only spots of misplaced parts (`doubtful`) are considered. Measured values that match are normal around the
    regression on the prediction, others are normal around 0; the logarithms of the ratio of their likelihoods are
    averaged over neighboring spots.
    """
    from scipy.spatial import cKDTree

    good = ~doubtful
    if not good.any():
        good = np.ones_like(doubtful)
    slope = max(float((measured * predicted)[good].sum() / max((predicted[good] ** 2).sum(), SMALL)), 0.0)
    ratio = (measured * predicted).sum(axis=1) - slope / 2 * (predicted**2).sum(axis=1)
    near = cKDTree(all_um).sparse_distance_matrix(cKDTree(um), 2 * SMOOTH * pitch, output_type="coo_matrix").tocsr()
    near.data = np.exp(-((near.data / (SMOOTH * pitch)) ** 2) / 2)
    nearest = cKDTree(um).query(all_um)[1]
    return doubtful[nearest] & (near @ ratio < 0)


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
