"""Oversample rare tissue: cluster the spots of a slide and resample small clusters (section 4.1.1 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from deepspot._core.validate import check_same_length
from deepspot.errors import InputError, MissingKeyError, MissingPackageError

from .normalize import normalize

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

METHODS = {"leiden": ("igraph",), "aestetik": ("igraph", "aestetik")}
N_GENES, N_COMPONENTS, N_NEIGHBORS = 2000, 50, 15


def require(method: str) -> None:
    """Raise if a method is unknown or its packages are not installed."""
    from importlib.util import find_spec

    if not isinstance(method, str) or method not in METHODS:
        raise MissingKeyError(f"`oversample={method!r}` is not available. Available methods: {sorted(METHODS)}.")
    missing = [package for package in METHODS[method] if find_spec(package) is None]
    if missing:
        extra = "aestetik" if method == "aestetik" else "leiden"
        raise MissingPackageError(
            f'`oversample={method!r}` needs {missing}, which are not installed: `pip install ".[{extra}]"`.'
        )


def cluster(
    counts: csr_matrix,
    *,
    method: Literal["leiden", "aestetik"] = "leiden",
    array: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Cluster the spots of one slide by Leiden at resolution 1, from raw counts (n, genes); return labels (n,).

    ``"leiden"`` uses 50 principal components of the 2,000 most variable genes, the fallback of the published code.
    ``"aestetik"`` uses the joint latent space of expression and position that AESTETIK learns from these components and
    the array positions (n, 2). Fewer than three spots are one cluster.
    """
    if method not in ("leiden", "aestetik"):
        raise InputError(f"`method` must be 'leiden' or 'aestetik', got {method!r}.")
    if method == "aestetik" and array is None:
        raise InputError(
            "AESTETIK needs the array positions of the spots: add the columns 'array_row' and 'array_col', or use "
            "`method='leiden'`."
        )
    if array is not None:
        check_same_length(np.empty(counts.shape[0]), array, "`counts` and `array`")
    if counts.shape[0] < 3:
        return np.zeros(counts.shape[0], dtype=np.int64)
    latent = components(counts, seed)
    if method == "aestetik" and array is not None:
        from .aestetik import spatial_latent

        latent = spatial_latent(latent, array, seed)
    return leiden(latent, seed)


def equalize(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return rows that contain each spot once and resample small clusters to the size of the largest.

    All n rows come first, in their order, followed by draws with replacement.
    """
    rng = np.random.default_rng(seed)
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    draws = [
        rng.choice(np.flatnonzero(codes == code), sizes.max() - size, replace=True) for code, size in enumerate(sizes)
    ]
    return np.concatenate([np.arange(len(labels)), *draws])


def components(counts: csr_matrix, seed: int) -> np.ndarray:
    """Compute principal components (n, ≤ 50) of log1p of counts per 10,000 of the most variable genes."""
    from sklearn.decomposition import PCA

    expression = normalize(counts)
    square = np.asarray(expression.multiply(expression).mean(axis=0)).ravel()
    variance = square - np.asarray(expression.mean(axis=0)).ravel() ** 2
    chosen = np.argsort(-variance, kind="stable")[:N_GENES]
    dense = expression[:, chosen].toarray()
    return PCA(min(N_COMPONENTS, len(dense) - 1, dense.shape[1]), random_state=seed).fit_transform(dense)


def leiden(latent: np.ndarray, seed: int) -> np.ndarray:
    """Cluster a latent space by Leiden at resolution 1 on its nearest neighbors; return labels (n,)."""
    try:
        import igraph  # noqa: F401 - for a clearer error than that of scanpy
    except ImportError as error:
        raise MissingPackageError(
            'Clustering needs the package igraph, which is not installed: `pip install ".[leiden]"`.'
        ) from error
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(np.ascontiguousarray(latent, dtype=np.float32))
    sc.pp.neighbors(adata, n_neighbors=min(N_NEIGHBORS, len(latent) - 1), use_rep="X", random_state=seed)
    sc.tl.leiden(adata, resolution=1, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return adata.obs["leiden"].to_numpy().astype(np.int64)
