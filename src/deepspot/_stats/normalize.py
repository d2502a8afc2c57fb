"""From raw counts to the scale that models learn: log1p of counts per 10,000. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from deepspot.errors import InputError

TARGET_SUM = 10_000


def check_counts(X: Any, where: str) -> csr_matrix:
    """Return raw counts as a sparse matrix, or raise if these are not counts."""
    counts = csr_matrix(X) if not issparse(X) else X.tocsr()
    values = counts.data
    if not np.isfinite(values).all():
        raise InputError(f"{where} holds values that are not finite. Raw counts are needed.")
    if (values < 0).any() or (values != np.round(values)).any():
        raise InputError(
            f"{where} does not hold raw counts (there are negative or broken numbers): it seems to be normalized "
            "already, and would be normalized twice. Name the layer with the counts with `layer=`."
        )
    return counts


def normalize(counts: csr_matrix, depth: np.ndarray | None = None) -> csr_matrix:
    """Log1p of counts (n, genes) per 10,000 of `depth` (n,), by default their sum; an empty spot stays empty."""
    total = np.asarray(counts.sum(axis=1)).ravel() if depth is None else depth
    factor = np.divide(TARGET_SUM, total, out=np.zeros(len(total)), where=total > 0)
    scaled = counts.astype(np.float64).multiply(factor[:, None]).tocsr()
    return scaled.log1p().astype(np.float32)


def most_variable(counts: Sequence[csr_matrix], genes: Sequence[str], n_top: int) -> list[str]:
    """Most variable genes by Seurat v3, best first, from raw counts (spots, genes) of every slide."""
    import scanpy as sc
    from anndata import AnnData, concat

    slides = {str(i): AnnData(part, var=pd.DataFrame(index=pd.Index(genes))) for i, part in enumerate(counts)}
    together = concat(slides, label="slide", index_unique="-")
    # Where a slide never shows a gene the local regression of Seurat v3 breaks down.
    seen = np.all([np.asarray((part > 0).sum(axis=0)).ravel() >= 3 for part in counts], axis=0)
    together = together[:, seen].copy()
    if n_top > together.n_vars:
        raise InputError(
            f"Only {together.n_vars:,} genes are seen in at least 3 spots of every slide, {n_top:,} are wanted. Ask "
            "for fewer with `genes=`."
        )
    sc.pp.highly_variable_genes(together, flavor="seurat_v3", n_top_genes=n_top, batch_key="slide")
    chosen = together.var[together.var["highly_variable"]]
    order = ["highly_variable_nbatches", "highly_variable_rank"]
    return list(chosen.sort_values(order, ascending=[False, True]).index)
