"""Two dimensions in which spots with similar genes are near each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.logging import logger
from deepspot._sdata.tables import is_deepspot_table
from deepspot._sdata.zarr_store import check_fits_in_memory
from deepspot._stats.normalize import check_counts, normalize

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "X_umap"
COMPONENTS, NEIGHBORS = 50, 15
FEWEST = 5
# Rows and columns of images that are still large enough to be seen.
FINEST = 24


def umap_of(table: AnnData, table_key: str, seed: int) -> np.ndarray:
    """UMAP (n, 2) that a table has, else one that is computed on a copy."""
    if KEY in table.obsm:
        return np.asarray(table.obsm[KEY], dtype=float)[:, :2]
    return _compute(_logged(table, table_key), table_key, seed)


def _logged(table: AnnData, table_key: str) -> Any:
    if is_deepspot_table(table) or "log1p" in table.uns:
        return table.X
    return normalize(check_counts(table.X, f"X of table {table_key!r}"))


def _compute(X: Any, table_key: str, seed: int) -> np.ndarray:
    import scanpy as sc
    from anndata import AnnData

    if X.shape[0] < FEWEST:
        raise ValueError(f"Table {table_key!r} has {X.shape[0]} rows: a UMAP needs at least {FEWEST}.")
    if hasattr(X, "dask"):  # for what lies on disk, scanpy's PCA wants one more package
        check_fits_in_memory(X.shape, "Compute a UMAP on some of it and keep it in `obsm['X_umap']`")
        X = X.compute()
    copy = AnnData(X.copy())
    sc.pp.pca(copy, n_comps=min(COMPONENTS, *(size - 1 for size in copy.shape)), random_state=seed)
    sc.pp.neighbors(copy, n_neighbors=min(NEIGHBORS, copy.n_obs - 1), random_state=seed)
    sc.tl.umap(copy, random_state=seed)
    logger.info(
        "Computed a UMAP of sdata.tables[%r] for this figure (PCA, neighbours and UMAP of scanpy, seed %s). Run these "
        "on the table to keep one.", table_key, seed,
    )  # fmt: skip
    return np.asarray(copy.obsm[KEY], dtype=float)


def spread(places: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose points to draw images at, so that no two overlap.

    The map is cut into as many rows as columns, as many as leave points in at most `n` of the cells, and no more than
    that needs or than leaves the images to be seen. Of each cell the point is taken that is nearest to its middle.

    Parameters
    ----------
    places
        (points, 2).
    n
        Most images.

    Returns
    -------
    Positions of the chosen points, middles (chosen, 2) of their cells, and width and height (2,) of a cell.
    """
    reach = np.ptp(places, axis=0) * 1.001
    reach[reach == 0] = 1.0
    best = _cells(places, reach)
    for parts in range(2, max(FINEST, int(2 * n**0.5)) + 1):
        finer = _cells(places, reach / parts)
        if len(finer[0]) > n:
            break
        if len(finer[0]) > len(best[0]):
            best = finer
    return best


def _cells(places: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low = places.min(axis=0)
    cell = np.floor((places - low) / side).astype(int)
    middle = low + (cell + 0.5) * side
    order = np.argsort((((places - middle) / side) ** 2).sum(axis=1), kind="stable")
    _, first = np.unique(cell[order], axis=0, return_index=True)
    chosen = order[first]
    return chosen, middle[chosen], side
