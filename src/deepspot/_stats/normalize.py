"""Normalize raw counts to the scale of the models: log1p of counts per 10,000."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot.errors import InputError

TARGET_SUM = 10_000
# Log-expression of a gene with all counts of a spot. No measurement is higher.
HIGHEST = float(np.log1p(TARGET_SUM))
# Shares of the genes in a local regression: the default of scanpy first.
SPANS = (0.3, 0.5, 0.75, 1.0)


def check_counts(X: Any, where: str) -> csr_matrix:
    """Return raw counts as a sparse matrix, also of a sparse array; raise if the values are not counts."""
    counts = csr_matrix(X)
    values = counts.data
    if not np.isfinite(values).all():
        raise InputError(f"{where} contains values that are not finite. Raw counts are needed.")
    if (values < 0).any() or (values != np.round(values)).any():
        raise InputError(
            f"{where} does not contain raw counts: some values are negative or not integers, so it may already be "
            "normalized. Pass the layer with raw counts as `layer=`."
        )
    return counts


def normalize(counts: csr_matrix, depth: np.ndarray | None = None) -> csr_matrix:
    """Compute log1p of counts (n, genes) per 10,000 of `depth` (n,), by default their sum. Empty spots stay 0."""
    total = np.asarray(counts.sum(axis=1)).ravel() if depth is None else depth
    factor = np.divide(TARGET_SUM, total, out=np.zeros(len(total)), where=total > 0)
    scaled = counts.astype(np.float64).multiply(factor[:, None]).tocsr()
    return scaled.log1p().astype(np.float32)


def most_variable(counts: Sequence[csr_matrix], genes: Sequence[str], n_top: int) -> list[str]:
    """Return the most variable genes by Seurat v3, best first, from raw counts (spots, genes) of each slide."""
    import scanpy as sc
    from anndata import AnnData, concat

    slides = {str(i): AnnData(part, var=pd.DataFrame(index=pd.Index(genes))) for i, part in enumerate(counts)}
    together = concat(slides, label="slide", index_unique="-")
    # The local regression of Seurat v3 fails for genes without counts in a slide.
    expressed = np.all([np.asarray((part > 0).sum(axis=0)).ravel() >= 3 for part in counts], axis=0)
    together = together[:, expressed].copy()
    if n_top > together.n_vars:
        raise InputError(
            f"Only {together.n_vars:,} genes have counts in at least 3 spots of each slide, but {n_top:,} were "
            "requested. Request fewer with `genes=`."
        )
    # The local regression also fails if many genes have the same mean, as on small or shallow slides.
    for span in SPANS:
        with suppress(ValueError):
            sc.pp.highly_variable_genes(together, flavor="seurat_v3", n_top_genes=n_top, batch_key="slide", span=span)
            break
    else:
        raise InputError(
            f"The slides have too few spots or counts to rank {together.n_vars:,} genes by their variability. Name the "
            "genes with `genes=`, request genes of more spots with `min_detected=`, or leave small slides out."
        )
    chosen = together.var[together.var["highly_variable"]]
    order = ["highly_variable_nbatches", "highly_variable_rank"]
    return list(chosen.sort_values(order, ascending=[False, True]).index)
