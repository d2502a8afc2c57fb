from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, identity


def pearson(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return Pearson's r (genes,) of two (n, genes) matrices over spots that are finite in both; NaN if constant."""
    known = np.isfinite(predicted) & np.isfinite(measured)
    count = np.maximum(known.sum(axis=0), 1)
    a, b = (np.where(known, part, 0).astype(np.float64) for part in (predicted, measured))
    a, b = (np.where(known, part - part.sum(axis=0) / count, 0) for part in (a, b))
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), scale, out=np.full(a.shape[1], np.nan), where=scale > 1e-12)


def mean_r(predicted: np.ndarray, measured: np.ndarray, slides: np.ndarray) -> float:
    """Return the mean of Pearson's r over genes within every slide, then over slides.

    A constant prediction counts as 0; genes with a constant measurement are left out.
    """
    means = []
    for slide in np.unique(slides):
        rows = slides == slide
        known = varies(measured[rows])
        if known.any():
            means.append(np.nan_to_num(pearson(predicted[rows], measured[rows])[known]).mean())
    return float(np.mean(means)) if means else 0.0


def varies(values: np.ndarray) -> np.ndarray:
    """Return a mask (genes,) of the columns of (n, genes) that are not constant, so that a correlation is defined."""
    return np.isfinite(pearson(values, values))


def spearman(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return Spearman's r (genes,) over spots that are finite in both; ties have their mean rank."""
    from scipy.stats import rankdata

    known = np.isfinite(predicted) & np.isfinite(measured)
    a, b = (rankdata(np.where(known, part, np.nan), axis=0, nan_policy="omit") for part in (predicted, measured))
    return pearson(a, b)


def rmse(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the root mean squared error (genes,) over spots that are finite in both; NaN without any."""
    known = np.isfinite(predicted) & np.isfinite(measured)
    squares = np.where(known, predicted.astype(np.float64) - measured, 0) ** 2
    count = known.sum(axis=0)
    return np.sqrt(np.divide(squares.sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0))


def mae(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the mean absolute error (genes,) over spots that are finite in both; NaN without any."""
    known = np.isfinite(predicted) & np.isfinite(measured)
    errors, count = np.where(known, np.abs(predicted.astype(np.float64) - measured), 0), known.sum(axis=0)
    return np.divide(errors.sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0)


def slope(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the slope (genes,) of the regression of measured on predicted values; NaN where Pearson's r is."""
    known = np.isfinite(predicted) & np.isfinite(measured)
    a, b = (np.where(known, part, np.nan).astype(np.float64) for part in (predicted, measured))
    r, found = pearson(predicted, measured), np.full(measured.shape[1], np.nan)
    defined = np.isfinite(r)
    found[defined] = r[defined] * np.nanstd(b[:, defined], axis=0) / np.nanstd(a[:, defined], axis=0)
    return found


def lee(predicted: np.ndarray, measured: np.ndarray, neighbors: csr_matrix) -> np.ndarray:
    """Return Lee's L (genes,): spatial correlation of two matrices, each averaged over a spot and its neighbors.

    Both are centered and averaged with weights that sum to 1 for every spot. The sum of products is divided by the
    standard deviations *before* averaging, so L is high only if both agree and form patterns wider than a spot; without
    neighbors it is Pearson's r. NaN if a gene is constant or NaN in any spot. `neighbors` is (n, n) without a diagonal.
    Lee, Journal of Geographical Systems 2001.
    """
    weights = csr_matrix(neighbors, dtype=np.float64) + identity(neighbors.shape[0], format="csr")
    weights = weights.multiply(1 / np.asarray(weights.sum(axis=1))).tocsr()
    a, b = (part.astype(np.float64) - part.mean(axis=0, dtype=np.float64) for part in (predicted, measured))
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    together = ((weights @ a) * (weights @ b)).sum(axis=0)
    return np.divide(together, scale, out=np.full(a.shape[1], np.nan), where=scale > 1e-12)


def moran(values: np.ndarray, neighbors: csr_matrix) -> np.ndarray:
    """Return Moran's I (genes,) of (n, genes) over a graph of neighbors (n, n); NaN for a constant gene."""
    import warnings

    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SyntaxWarning)  # of the docstrings of squidpy
        from squidpy.gr import spatial_autocorr

    statistic = np.full(values.shape[1], np.nan)
    columns = np.flatnonzero(varies(values))
    if len(columns) and neighbors.nnz:
        adata = AnnData(values[:, columns].astype(np.float64), obsp={"spatial_connectivities": neighbors.astype(float)})
        options = {"n_perms": None, "corr_method": None, "show_progress_bar": False, "copy": True}
        result = spatial_autocorr(adata, mode="moran", genes=list(adata.var_names), **options)
        statistic[columns] = result["I"].reindex(adata.var_names)
    return statistic
