"""Expression on the log scale for the analyses of a prediction: checks and the transform of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from deepspot._core.keys import key_in
from deepspot.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

PAPER = "paper"
LARGEST = 30
"""Above the log2 of any number of counts."""

NEXT = "Call `sc.pp.normalize_total(table, target_sum=1e4)` and `sc.pp.log1p(table)` on a copy"


def log_expression(table: AnnData, table_key: str, layer: str | None, transform: str | None) -> tuple[Any, np.ndarray]:
    """Return a copy (n, genes) of the genes without missing values, and their mask (all genes,).

    Values are missing in a corrected table for genes that the model does not predict. ``"paper"`` sets negative values
    to 0 and adds 1.
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
    check_log_scale(X, where, marked="log1p" in table.uns, other=", or pass a layer on the log scale as `layer=`")
    if issparse(X):
        known = np.asarray(np.isfinite(X.sum(axis=0))).ravel()
        X = csr_matrix(X)[:, known].copy()  # also of a sparse array, which scanpy cannot rank
        if transform == PAPER:
            X = X.toarray()
    else:
        X = np.asarray(X)
        known = np.isfinite(X).all(axis=0)
        X = X[:, known].copy()
    if not known.any():
        raise InputError(f"{where} has missing values for all genes.")
    return (np.maximum(X, 0) + 1 if transform == PAPER else X), known


def check_log_scale(X: Any, where: str, *, marked: bool, other: str = "") -> None:
    """Raise an error if values seem to be raw counts, or are not `marked` as log scale; `other` is another remedy."""
    if look_like_counts(X):
        raise InputError(
            f"{where} holds whole numbers, which seem to be raw counts; expression on the log scale is needed. "
            f"{NEXT}{other}."
        )
    if not marked:
        raise InputError(
            f"{where} is on an unknown scale: there is no `uns['log1p']`. {NEXT} of the raw counts; this "
            "sets `uns['log1p']`. If the values are on the log scale already, set `table.uns['log1p'] = {}`."
        )
    if look_linear(X):
        raise InputError(
            f"{where} holds values above {LARGEST}, so these are no logarithms; expression on the log scale is needed. "
            f"{NEXT}{other}."
        )


def look_linear(X: Any) -> bool:
    """Return whether values of a numpy or sparse array are too large for logarithms, and never negative as z-scores."""
    values = X.data if issparse(X) else np.asarray(X)
    values = values[np.isfinite(values)]
    return bool(len(values)) and bool(values.max() > LARGEST and values.min() >= 0)


def look_like_counts(X: Any) -> bool:
    """Return whether values of a numpy or sparse array seem to be raw counts and not logarithms."""
    values = X.data if issparse(X) else np.asarray(X)
    values = values[np.isfinite(values)]
    # A sample of the positive values is enough.
    positive = values[values > 0][:100_000]
    return bool(len(positive)) and bool((positive == np.round(positive)).all())
