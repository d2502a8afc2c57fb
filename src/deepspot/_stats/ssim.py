"""Structural similarity of maps on an array of spots, with windows that hold only the spots that were measured."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from deepspot._spatial.transforms import pitch_px

# Window and constants of Wang et al. 2004; lengths are in distances between spots.
SIGMA, REACH = 1.5, 5.25
K1, K2 = 0.01, 0.03
GENES = 500  # at a time


def gaussian_windows(centers: np.ndarray) -> csr_matrix:
    """Return weights (n, n) of the spots in the window of each spot at `centers` (n, 2); rows sum to 1.

    They fall with the distance as a Gaussian with a standard deviation of 1.5 distances between spots. Where spots are
    missing, the weights of the others sum to 1: no value is invented. A spot alone in its window has a row of zeros.
    """
    from scipy.spatial import cKDTree

    tree, pitch = cKDTree(centers), pitch_px(centers)
    near = tree.sparse_distance_matrix(tree, REACH * pitch, output_type="coo_matrix")
    weights = csr_matrix((np.exp(-((near.data / pitch) ** 2) / (2 * SIGMA**2)), (near.row, near.col)), shape=near.shape)
    weights = weights.multiply(np.diff(weights.indptr)[:, None] > 1).multiply(1 / np.asarray(weights.sum(axis=1)))
    return csr_matrix(weights)


def ssim(predicted: np.ndarray, measured: np.ndarray, windows: csr_matrix) -> np.ndarray:
    """Return the structural similarity (genes,) of two (n, genes) matrices over `windows` (n, n).

    It is the mean over spots of the index of Wang et al., IEEE Transactions on Image Processing 2004. The data range is
    that of the measured gene over these spots. NaN if the measured gene is constant or unknown, or no window has two
    spots. On a complete square array it is that of scikit-image with `gaussian_weights`, apart from the border, which
    scikit-image leaves out.
    """
    found = np.full(measured.shape[1], np.nan)
    spots = np.flatnonzero(np.diff(windows.indptr))
    span = np.ptp(measured.astype(np.float64), axis=0)
    genes = np.flatnonzero(np.isfinite(span) & (span > 0) & np.isfinite(predicted).all(axis=0))
    if not len(spots):
        return found
    local = windows[spots]
    for some in np.array_split(genes, max(1, -(-len(genes) // GENES))):
        # Without the common level, the differences of squares below lose fewer digits.
        shift = measured[:, some].mean(axis=0, dtype=np.float64)
        a, b = (values[:, some].astype(np.float64) - shift for values in (predicted, measured))
        mean_a, mean_b = local @ a, local @ b
        variances = local @ (a * a) - mean_a**2 + local @ (b * b) - mean_b**2
        covariance = local @ (a * b) - mean_a * mean_b
        mean_a, mean_b = mean_a + shift, mean_b + shift
        c1, c2 = (K1 * span[some]) ** 2, (K2 * span[some]) ** 2
        level = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        found[some] = (level * (2 * covariance + c2) / (variances + c2)).mean(axis=0)
    return found
