"""Agreement of a prediction with a measurement: of every gene, and of all values of a slide."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import RINGS, find_neighbors
from deepspot._spatial.transforms import pitch_px

from .metrics import lee, mae, moran, pearson, rmse, slope, spearman
from .patterns import beyond_first_axis
from .ssim import gaussian_windows, ssim

# Measures of a gene whose means over genes are measures of a slide, under the same names, and measures of all values.
MEANS = ["spearman", "rmse", "mae", "ssim", "ssim_of_mean", "lee", "moran_predicted", "moran_measured"]
OF_VALUES = ["r_all", "r_all_means", "r_all_pattern", "r_all_of_means", "slope"]


def agreement_of_genes(predicted: np.ndarray, measured: np.ndarray, centers: np.ndarray | None) -> pd.DataFrame:
    """Return the measures of each gene (rows) of two (n, genes) matrices of spots at `centers` (n, 2).

    Columns are described in :func:`deepspot.tl.evaluate`. Spatial ones are NaN without centers. All are NaN for a gene
    that was not measured.
    """
    spots = np.isfinite(measured).any(axis=1)  # a spot with counts of other genes only is not measured
    predicted, measured = predicted[spots], measured[spots]
    centers = None if centers is None else centers[spots]
    known = np.isfinite(measured).any(axis=0)
    predicted = np.where(np.isfinite(predicted), predicted, np.nan)
    r = pearson(predicted, measured)
    columns = {
        "pearson": r,
        "pearson_beyond_axis": np.where(np.isfinite(r), beyond_first_axis(predicted, measured), np.nan),
        "spearman": spearman(predicted, measured),
        "rmse": rmse(predicted, measured),
        "mae": mae(predicted, measured),
        "slope": slope(predicted, measured),
    }
    spatial: dict[str, float | np.ndarray] = dict.fromkeys(
        ("lee", "moran_predicted", "moran_measured", "ssim", "ssim_of_mean"), np.nan
    )
    if centers is not None and len(centers) > 1:
        neighbors, windows = ring(centers), gaussian_windows(centers)
        flat = np.broadcast_to(measured.mean(axis=0), measured.shape)
        spatial = {
            "lee": lee(predicted, measured, neighbors),
            "moran_predicted": np.where(known, moran(predicted, neighbors), np.nan),
            "moran_measured": moran(measured, neighbors),
            "ssim": ssim(predicted, measured, windows),
            "ssim_of_mean": ssim(flat, measured, windows),
        }
    return pd.DataFrame(columns | spatial)


def agreement_of_values(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Return r over all pairs of spot and gene of two (n, genes) matrices, split into gene means and spatial pattern.

    Genes that are not known in all spots are left out. The covariance over all pairs is the sum of that of the means of
    genes and that of the deviations from them. Divided by the same standard deviations, these are two parts of r, which
    sum to it:

    ``r_all``, ``r_all_means``, ``r_all_pattern``
        r, the part of the means of genes, and the part of the deviations, which is the spatial pattern. All are NaN if
        one side is constant.
    ``r_all_of_means``
        r of a prediction that is the measured mean of each gene in all spots: it knows no pattern.
    ``slope``
        Slope of measured on predicted deviations over all pairs: 1 if differences between spots have the right size,
        below 1 if the prediction exaggerates them, above 1 if it is too smooth. NaN without any in the prediction.
    """
    known = np.isfinite(predicted) & np.isfinite(measured)
    spots = known.any(axis=1)
    a, b = (values[np.ix_(spots, known[spots].all(axis=0))].astype(np.float64) for values in (predicted, measured))
    if not a.size:
        return dict.fromkeys(OF_VALUES, float("nan"))
    means = [values.mean(axis=0) for values in (a, b)]
    rest = [values - mean for values, mean in zip((a, b), means, strict=True)]
    means = [mean - mean.mean() for mean in means]
    sums = {
        (i, j): (len(a) * means[i] @ means[j], float((rest[i] * rest[j]).sum())) for i, j in ((0, 1), (0, 0), (1, 1))
    }
    total = [sum(sums[i, i]) for i in (0, 1)]
    scale = float(np.sqrt(total[0] * total[1]))
    parts = [part / scale if scale > 1e-12 else float("nan") for part in sums[0, 1]]
    of_means = float(np.sqrt(sums[1, 1][0] / total[1])) if total[1] > 1e-12 else float("nan")
    # What is left of a constant gene is rounding error.
    varies = sums[0, 0][1] > 1e-12 * max(float((a**2).sum()), 1e-12)
    calibration = sums[0, 1][1] / sums[0, 0][1] if varies else float("nan")
    return dict(zip(OF_VALUES, (sum(parts), *parts, of_means, calibration), strict=True))


def ring(centers: np.ndarray) -> csr_matrix:
    """Return the adjacent spots (n, n), without a diagonal, of spots at `centers` (n, 2)."""
    return find_neighbors(centers, NeighborRule(reach=RINGS * pitch_px(centers)))
