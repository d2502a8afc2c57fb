"""Scales of expression, and normalization of raw counts to them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.keys import SCALE
from deepspot.errors import InputError

# Shares of the genes in a local regression: the default of scanpy first.
SPANS = (0.3, 0.5, 0.75, 1.0)
FEWEST_GENES = 5
"""The local regression ends the process on 3 genes (scikit-misc 0.5)."""


@dataclass(frozen=True)
class Scale:
    """A scale of expression: log1p of a rate. The rate is counts per `total` counts of a spot, or the raw counts.

    Attributes
    ----------
    name
        Value of `normalize` in :class:`deepspot.models.SlideKeys`.
    text
        Description, as in the card of a model and in `uns` of a table.
    total
        Counts of a spot after normalization; None for raw counts.
    """

    name: str
    text: str
    total: float | None

    @property
    def most(self) -> float:
        """Rate of a gene with all counts of a spot. No measurement is higher. Infinite for raw counts."""
        return float("inf") if self.total is None else self.total

    @property
    def highest(self) -> float:
        """The highest possible value, log1p of `most`."""
        return float(np.log1p(self.most))

    def exposure(self, depth: np.ndarray) -> np.ndarray:
        """Return by how much a rate is multiplied to give the expected count (n,) of spots of `depth` (n,).

        It is 0 for a spot without counts, which was not measured.
        """
        return (depth > 0).astype(float) if self.total is None else depth / self.total


LOG1P_10K = Scale("log1p_10k", SCALE, 10_000)
SCALES = {
    scale.name: scale
    for scale in (
        LOG1P_10K,
        Scale("log1p_counts", "log1p of raw counts", None),
        Scale("log1p_cpm", "log1p of counts per 1,000,000", 1_000_000),
    )
}


def known_scale(text: str | None) -> Scale | None:
    """Return the scale with a description, that of a card or a table; None if counts cannot be transformed to it."""
    return next((scale for scale in SCALES.values() if scale.text == text), None)


def check_counts(X: Any, where: str) -> csr_matrix:
    """Return raw counts as a sparse matrix, also of a sparse array; raise if the values are not counts."""
    counts = csr_matrix(X)
    values = counts.data
    if not np.isfinite(values).all():
        raise InputError(f"{where} contains values that are not finite. Raw counts are needed.")
    if (values < 0).any() or (values != np.round(values)).any():
        raise InputError(
            f"{where} does not contain raw counts: some values are negative or not integers, so it may already be "
            "normalized. Pass the layer with raw counts as `layer=`, or `keys={'layer': ...}` of `ds.models`."
        )
    return counts


def normalize(counts: csr_matrix, depth: np.ndarray | None = None, scale: Scale = LOG1P_10K) -> csr_matrix:
    """Transform counts (n, genes) of spots of `depth` (n,), by default their sum, to a scale. Empty spots stay 0."""
    if scale.total is None:
        return counts.astype(np.float64).log1p().astype(np.float32)
    total = np.asarray(counts.sum(axis=1)).ravel() if depth is None else depth
    factor = np.divide(scale.total, total, out=np.zeros(len(total)), where=total > 0)
    scaled = counts.astype(np.float64).multiply(factor[:, None]).tocsr()
    return scaled.log1p().astype(np.float32)


def most_variable(counts: Sequence[csr_matrix], genes: Sequence[str], n_top: int) -> list[str]:
    """Return the most variable genes by Seurat v3, best first, from raw counts (spots, genes) of each slide.

    If fewer than `n_top` can be ranked, because they have counts in at least 3 spots of each slide, these are returned.
    """
    import scanpy as sc
    from anndata import AnnData, concat

    slides = {str(i): AnnData(part, var=pd.DataFrame(index=pd.Index(genes))) for i, part in enumerate(counts)}
    together = concat(slides, label="slide", index_unique="-")
    # The local regression of Seurat v3 fails for genes without counts in a slide.
    expressed = np.all([np.asarray((part > 0).sum(axis=0)).ravel() >= 3 for part in counts], axis=0)
    together = together[:, expressed].copy()
    n_top = min(n_top, together.n_vars)
    # The local regression also fails if many genes have the same mean, as on small or shallow slides.
    for span in SPANS if together.n_vars >= FEWEST_GENES else ():
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
