"""Agreement of a prediction with a measurement within spots: what a resolution finer than spots adds."""

from __future__ import annotations

import numpy as np

from .groups import members_of

# A part of a gene's variance below this share of its square is rounding error.
CONSTANT = 1e-12


class WithinSpots:
    """Agreement of a prediction with a measurement within spots, for blocks of genes.

    It is Pearson's r of deviations from the mean of the spot, over all places in spots with at least two of them.
    `groups` (n,) are the numbers of the spots from 0. The same bootstrap samples of spots, and the same random swaps of
    the predictions within spots, are used for all genes, so that the mean over genes has an interval and a p, too.
    """

    def __init__(self, groups: np.ndarray, *, n_bootstrap: int, n_swaps: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._order = np.argsort(groups, kind="stable")
        self._groups = groups[self._order]
        self._members = members_of(self._groups)
        n = self._members.shape[0]
        self._weights = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)
        # Positions in the order of the groups: 4 bytes per place and swap.
        place = np.empty(len(groups), dtype=np.int32)
        place[self._order] = np.arange(len(groups))
        self._swaps = [place[np.lexsort((rng.random(len(groups)), groups))] for _ in range(n_swaps)]
        self._r, self._drawn, self._swapped, self._n = 0.0, np.zeros(n_bootstrap), np.zeros(n_swaps), 0
        self._n_drawn = np.zeros(n_bootstrap)

    def add(self, predicted: np.ndarray, measured: np.ndarray) -> dict[str, np.ndarray]:
        """Compare a block of genes (n, genes), and return `r`, `low`, `high` and `p` (genes,).

        These are r, its 95 % interval from the bootstrap of spots, and the share of random swaps with an r at least as
        high. A constant prediction has an r of 0, a constant measurement NaN.
        """
        x, y = (values[self._order].astype(np.float64) for values in (predicted, measured))
        a, b = center_by(x, self._groups), center_by(y, self._groups)
        products, squares, of_measured = self._members @ (a * b), self._members @ a**2, self._members @ b**2
        own = products.sum(axis=0), _clean(a, x), _clean(b, y)
        r = _r(*own)
        known = np.isfinite(r)
        weights = self._weights
        drawn = _r(weights @ products, weights @ squares * (own[1] > 0), weights @ of_measured * (own[2] > 0))
        low, high = _ends(drawn)
        above = np.zeros(len(r))
        for number, swap in enumerate(self._swaps):
            other = _r(np.einsum("ij,ij->j", a[swap], b), *own[1:])
            above += other >= r
            self._swapped[number] += other[known].sum()
        self._r += r[known].sum()
        self._n += int(known.sum())
        self._drawn += np.nansum(drawn[:, known], axis=1)
        self._n_drawn += np.isfinite(drawn[:, known]).sum(axis=1)
        p = np.where(known, (1 + above) / (1 + len(self._swaps)), np.nan)
        return {"r": r, "low": low, "high": high, "p": p}

    def mean(self) -> dict[str, float]:
        """Return `r`, `low`, `high` and `p` of the mean over all genes so far that were measured; NaN without any."""
        if not self._n:
            return dict.fromkeys(("r", "low", "high", "p"), float("nan"))
        drawn = np.divide(self._drawn, self._n_drawn, out=np.full(len(self._drawn), np.nan), where=self._n_drawn > 0)
        low, high = (float(end) for end in _ends(drawn[:, None]).ravel())
        p = (1 + int((self._swapped >= self._r).sum())) / (1 + len(self._swaps))
        return {"r": self._r / self._n, "low": low, "high": high, "p": p}


def center_by(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Subtract from values (n, genes) the mean of their group, with `groups` (n,) numbers from 0."""
    sums = members_of(groups) @ values
    return np.asarray(values - (sums / np.bincount(groups)[:, None])[groups])


def r_within(predicted: np.ndarray, measured: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return r (genes,) of deviations from group means: 0 for a constant prediction, NaN for a constant measurement."""
    a, b = (center_by(values.astype(np.float64), groups) for values in (predicted, measured))
    return _r((a * b).sum(axis=0), _clean(a, predicted), _clean(b, measured))


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
