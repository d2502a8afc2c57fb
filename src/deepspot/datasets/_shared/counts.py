"""Tables that others published are checked: counts, not logarithms, and genes, not controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from deepspot._core.logging import logger
from deepspot.io._genes import name_genes

from .h5ad import numbered_later

if TYPE_CHECKING:
    from anndata import AnnData

CONTROLS = (
    "BLANK", "Blank-", "NegControl", "NegPrb", "antisense_", "UnassignedCodeword", "DeprecatedCodeword",
    "Intergenic_", "__ambiguous", "__no_feature",
)  # fmt: skip
"""How names begin that stand for no gene: controls of Xenium, and reads that were counted for several genes."""

ENSEMBL = r"ENS[A-Z]*G\d{11}"


def counted(adata: AnnData, path: Path, gene_id_key: str | None = None) -> AnnData:
    """Counts (CSR, int32) of the genes of a table, with its `obs` and `var`, and gene names that are unique.

    Raises
    ------
    ValueError
        If neither `X` nor ``layers["counts"]`` holds counts.
    """
    from anndata import AnnData

    counts = next((X for X in (adata.X, adata.layers.get("counts")) if X is not None and _are_counts(X)), None)
    if counts is None:
        raise ValueError(
            f"{path} holds no raw counts, neither in X nor in layers['counts'] (there are negative or broken numbers): "
            "it seems to be normalised already. Get the counts, or read it as it is with `anndata.read_h5ad` and "
            "`ds.io.from_anndata`."
        )
    if counts.shape[1] == 0 or counts.max() > np.iinfo(np.int32).max:
        raise ValueError(f"{path} holds no genes, or counts that no sequencer gives. Get a new copy.")
    with numbered_later():
        table = AnnData(csr_matrix(counts, dtype=np.int32), obs=adata.obs.copy(), var=adata.var.copy())
    controls = table.var_names.str.startswith(CONTROLS)
    if controls.any():
        logger.info("%d of %d rows of %s stand for no gene (%s) and are left out.", controls.sum(), len(controls),
                    path.name, ", ".join(table.var_names[controls][:3]))  # fmt: skip
        table = table[:, ~controls].copy()
    name_genes(table, gene_id_key)
    if table.var_names.str.fullmatch(ENSEMBL).mean() > 0.5:
        logger.warning(
            "Genes of %s are named by Ensembl identifiers, which models that learnt symbols will not know. Columns of "
            "its var are %s: one with symbols goes into `gene_id_key=`.", path.name, list(table.var),
        )  # fmt: skip
    return table


def _are_counts(X: Any) -> bool:
    values = X.data if issparse(X) else np.asarray(X)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values == np.round(values)).all())
