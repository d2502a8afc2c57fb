"""Agreement of a prediction with a measurement within spots: what a resolution finer than spots adds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .groups import members_of

# A part of a gene's variance below this share of its square is rounding error.
CONSTANT = 1e-12


@dataclass(frozen=True, eq=False)
class WithinSpots:
    """Pearson's r of deviations from the mean of the spot, over all places in spots with at least two of them.

    `r`, `low`, `high` and `p` are (genes,): r, its 95 % interval from the bootstrap of spots, and the share of random
    swaps of the predictions within spots with an r at least as high. A constant prediction has an r of 0, a constant
    measurement NaN. `mean`, `mean_low`, `mean_high` and `mean_p` are those of the mean over genes.
    """

    r: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    mean: float
    mean_low: float
    mean_high: float
    mean_p: float


def center_by(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Subtract from values (n, genes) the mean of their group, with `groups` (n,) numbers from 0."""
    sums = members_of(groups) @ values
    return np.asarray(values - (sums / np.bincount(groups)[:, None])[groups])


def r_within(predicted: np.ndarray, measured: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return r (genes,) of deviations from group means: 0 for a constant prediction, NaN for a constant measurement."""
    a, b = (center_by(values.astype(np.float64), groups) for values in (predicted, measured))
    return _r((a * b).sum(axis=0), _clean(a, predicted), _clean(b, measured))


def agreement_within(
    predicted: np.ndarray, measured: np.ndarray, groups: np.ndarray, *, n_bootstrap: int, n_swaps: int, seed: int
) -> WithinSpots:
    """Compare a prediction with a measurement (n, genes) within `groups` (n,), numbers from 0 with two places each."""
    rng = np.random.default_rng(seed)
    a, b = (center_by(values.astype(np.float64), groups) for values in (predicted, measured))
    members = members_of(groups)
    products, squares, measured_squares = members @ (a * b), members @ a**2, members @ b**2
    own = products.sum(axis=0), _clean(a, predicted), _clean(b, measured)
    r = _r(*own)
    known = np.isfinite(r)

    n = members.shape[0]
    weights = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)
    drawn = _r(weights @ products, weights @ squares * (own[1] > 0), weights @ measured_squares * (own[2] > 0))
    low, high = _ends(drawn)
    means = np.nanmean(drawn[:, known], axis=1) if known.any() else np.full(n_bootstrap, np.nan)

    order = np.argsort(groups, kind="stable")
    above, mean_above = np.zeros(len(r)), 0
    for _ in range(n_swaps):
        swapped = a[np.lexsort((rng.random(len(groups)), groups))]
        other = _r((swapped * b[order]).sum(axis=0), *own[1:])
        above += other >= r
        mean_above += np.mean(other[known]) >= np.mean(r[known]) if known.any() else 0
    p = np.where(known, (1 + above) / (1 + n_swaps), np.nan)
    mean = float(np.mean(r[known])) if known.any() else float("nan")
    mean_low, mean_high = (float(end) for end in _ends(means[:, None]).ravel())
    mean_p = (1 + mean_above) / (1 + n_swaps) if known.any() else float("nan")
    return WithinSpots(r, low, high, p, mean, mean_low, mean_high, float(mean_p))


def interpolate(values: np.ndarray, at: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate values (spots, genes) at `at` (spots, 2) linearly to `places` (n, 2); beyond the hull, the nearest.

    It knows how expression changes from spot to spot, and nothing of the image within a spot.
    """
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
    from scipy.spatial import QhullError

    nearest = NearestNDInterpolator(at, values)(places)
    try:
        linear = LinearNDInterpolator(at, values)(places)
    except QhullError:  # fewer than three spots, or all on a line
        return np.asarray(nearest)
    return np.where(np.isfinite(linear), linear, nearest)


def _clean(centered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of squares (genes,) of deviations, 0 where they are rounding errors."""
    squares = (centered**2).sum(axis=0)
    return np.where(squares > CONSTANT * np.maximum((values.astype(np.float64) ** 2).sum(axis=0), CONSTANT), squares, 0)


def _r(products: np.ndarray, squares: np.ndarray, measured: np.ndarray) -> np.ndarray:
    scale = np.sqrt(squares * measured)
    r = np.divide(products, scale, out=np.zeros(np.broadcast(products, scale).shape), where=scale > 0)
    return np.where(measured > 0, r, np.nan)


def _ends(drawn: np.ndarray) -> np.ndarray:
    """Return the 95 % interval (2, genes) of draws (n, genes); NaN for genes without any."""
    ends = np.full((2, drawn.shape[1]), np.nan)
    some = np.isfinite(drawn).any(axis=0)
    if some.any():
        ends[:, some] = np.nanquantile(drawn[:, some], (0.025, 0.975), axis=0)
    return ends
