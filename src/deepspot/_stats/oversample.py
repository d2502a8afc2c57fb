"""Rare tissue counts as much as common tissue: cluster the spots of a slide, and draw the small clusters again."""

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
    """Raise unless a method is known and its packages are installed, before hours of work."""
    from importlib.util import find_spec

    if method not in METHODS:
        raise MissingKeyError(f"`oversample={method!r}` is no method. Available methods: {sorted(METHODS)}.")
    missing = [package for package in METHODS[method] if find_spec(package) is None]
    if missing:
        extra = "aestetik" if method == "aestetik" else "leiden"
        raise MissingPackageError(
            f'`oversample={method!r}` needs {missing}, not installed here: `pip install ".[{extra}]"`.'
        )


def cluster(
    counts: csr_matrix,
    *,
    method: Literal["leiden", "aestetik"] = "leiden",
    array: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Number (n,) of the cluster of every spot of one slide, by Leiden at resolution 1, from raw counts (n, genes).

    ``"leiden"`` works on 50 principal components of the 2,000 most variable genes, as the published code falls back to;
    ``"aestetik"`` on the joint latent of transcriptome and space that AESTETIK learns from these components, for which
    it needs the array positions (n, 2). Fewer than three spots are one cluster.
    """
    if method not in ("leiden", "aestetik"):
        raise InputError(f"`method` must be 'leiden' or 'aestetik', got {method!r}.")
    if method == "aestetik" and array is None:
        raise InputError(
            "AESTETIK needs the position of the spots in their array: add columns 'array_row' and 'array_col', or use "
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
    """Rows that hold every spot once, and more of the small clusters until all are as large as the largest.

    First come all n rows in their order, then the draws, which are with replacement.
    """
    rng = np.random.default_rng(seed)
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    draws = [
        rng.choice(np.flatnonzero(codes == code), sizes.max() - size, replace=True) for code, size in enumerate(sizes)
    ]
    return np.concatenate([np.arange(len(labels)), *draws])


def components(counts: csr_matrix, seed: int) -> np.ndarray:
    """Principal components (n, 50 or fewer) of log1p of counts per 10,000 of the most variable genes."""
    from sklearn.decomposition import PCA

    expression = normalize(counts)
    square = np.asarray(expression.multiply(expression).mean(axis=0)).ravel()
    variance = square - np.asarray(expression.mean(axis=0)).ravel() ** 2
    chosen = np.argsort(-variance, kind="stable")[:N_GENES]
    dense = expression[:, chosen].toarray()
    return PCA(min(N_COMPONENTS, len(dense) - 1, dense.shape[1]), random_state=seed).fit_transform(dense)


def leiden(latent: np.ndarray, seed: int) -> np.ndarray:
    """Clusters (n,) of a latent, by Leiden at resolution 1 on its nearest neighbors."""
    try:
        import igraph  # noqa: F401 - scanpy needs it, and says so less clearly
    except ImportError as error:
        raise MissingPackageError(
            'Clusters need the package igraph, which is not installed: `pip install ".[leiden]"`.'
        ) from error
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(np.ascontiguousarray(latent, dtype=np.float32))
    sc.pp.neighbors(adata, n_neighbors=min(N_NEIGHBORS, len(latent) - 1), use_rep="X", random_state=seed)
    sc.tl.leiden(adata, resolution=1, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return adata.obs["leiden"].to_numpy().astype(np.int64)
