"""Check expression for analyses on the log scale, and transform it if requested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse

from deepspot._core.keys import key_in
from deepspot.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

PAPER = "paper"
NEXT = "Call `sc.pp.normalize_total(table, target_sum=1e4)` and `sc.pp.log1p(table)` on a copy"


def log_expression(table: AnnData, table_key: str, layer: str | None, transform: str | None) -> tuple[Any, np.ndarray]:
    """Matrix (n, known genes), a copy, and whether a gene is known (genes,).

    Genes with missing values are left out, such as those of a corrected table that the model lacks. ``"paper"`` sets
    negative values to 0 and adds 1.
    """
    if transform not in (None, PAPER):
        raise InputError(f"`transform` must be None or {PAPER!r}, got {transform!r}.")
    where = f"X of table {table_key!r}"
    if layer is not None:
        where = f"Layer {key_in(layer, table.layers, f'layers of table {table_key!r}')!r} of table {table_key!r}"
    X = table.X if layer is None else table.layers[layer]
    if X is None:
        raise InputError(f"{where} is empty, so there are no genes to analyze.")
    if not table.var_names.is_unique:
        raise InputError(f"Gene names of table {table_key!r} are not unique. Call `var_names_make_unique` on it first.")
    check_log_scale(X, where, said="log1p" in table.uns, other=", or name the layer that is on it with `layer=`")
    if issparse(X):
        known = np.asarray(np.isfinite(X.sum(axis=0))).ravel()
        X = X.tocsr()[:, known].copy()
        if transform == PAPER:
            X = X.toarray()
    else:
        X = np.asarray(X)
        known = np.isfinite(X).all(axis=0)
        X = X[:, known].copy()
    if not known.any():
        raise InputError(f"{where} holds missing values for all genes.")
    return (np.maximum(X, 0) + 1 if transform == PAPER else X), known


def check_log_scale(X: Any, where: str, *, said: bool, other: str = "") -> None:
    """Raise unless all values, or some rows, are on the log scale, as far as can be known.

    `said` tells whether the table says so, and `other` is another remedy for the message about raw counts.
    """
    if look_like_counts(X):
        raise InputError(
            f"{where} holds whole numbers, so these seem to be raw counts; expression on the log scale is needed. "
            f"{NEXT}{other}."
        )
    if not said:
        raise InputError(
            f"{where} is on an unknown scale: there is no `uns['log1p']`. {NEXT} of the raw counts; this "
            "sets it. If the values are on the log scale already, set `table.uns['log1p'] = {}`."
        )


def look_like_counts(X: Any) -> bool:
    """Whether values seem to be raw counts, and not logarithms: a numpy or sparse array."""
    values = X.data if issparse(X) else np.asarray(X)
    values = values[np.isfinite(values)]
    # A handful of values tells counts from logarithms, and zeros tell nothing.
    positive = values[values > 0][:100_000]
    return bool(len(positive)) and bool((positive == np.round(positive)).all())
