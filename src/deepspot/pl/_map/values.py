"""Measured, predicted and corrected genes in the order of the shapes, on the log scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deepspot._core.keys import CORRECTED, LEARNED, PREDICTION, UNS, key_in, keys_in, one_key
from deepspot._sdata.tables import (
    find_measured_table,
    is_deepspot_table,
    kind_of,
    labels_of,
    match_rows,
    regions_of,
    tables_annotating,
    tables_of_kind,
)
from deepspot._stats.normalize import LOG1P_10K, Scale, check_counts, normalize
from deepspot.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def shapes_of(sdata: SpatialData, table_key: str, shapes_key: str | None) -> str:
    """Return the name of the shapes that a table annotates; `shapes_key` is needed if there are several."""
    names = regions_of(sdata, table_key)
    return one_key(shapes_key, names, f"shapes that sdata.tables[{table_key!r}] annotates", "shapes_key")


def prediction_table_key(
    sdata: SpatialData, shapes_key: str, key: str | None, *, argument: str = "prediction_key"
) -> str:
    """Return the name of the table with the predicted genes of a shapes element."""
    tables = tables_annotating(sdata, shapes_key)
    if key is None:
        tables = tables_of_kind(sdata, shapes_key, PREDICTION)
        if not tables:
            raise MissingKeyError(f"No table has predicted genes of {shapes_key!r}. {_to_predict(sdata, shapes_key)}")
    return one_key(key, tables, f"sdata.tables annotating {shapes_key!r}", argument)


def _to_predict(sdata: SpatialData, shapes_key: str) -> str:
    """Return how to get a prediction of shapes, and of which others there is one."""
    others = [key for key in sdata.shapes if key != shapes_key and tables_of_kind(sdata, key, PREDICTION)]
    call = f"Call `ds.tl.predict(sdata, model, shapes_key={shapes_key!r})` first"
    return f"{call}, or name other shapes as `shapes_key`: {others} are predicted." if others else f"{call}."


def corrected_table_key(sdata: SpatialData, shapes_key: str, key: str | Literal[False] | None) -> str | None:
    """Return the name of the table with the corrected genes of a shapes element; None without, or if `key` is False."""
    tables = tables_of_kind(sdata, shapes_key, CORRECTED)
    if key is False or (key is None and not tables):
        return None
    return one_key(key, tables, f"corrected genes of {shapes_key!r} in sdata.tables", "corrected_key")


def measured_table_key(sdata: SpatialData, shapes_key: str, key: str | None) -> str | None:
    """Return the name of the table with the measured genes of a shapes element, or None without measured genes."""
    tables = [name for name in tables_annotating(sdata, shapes_key) if not is_deepspot_table(sdata.tables[name])]
    return None if key is None and not tables else find_measured_table(sdata, shapes_key, key)


def measured_values(
    sdata: SpatialData,
    shapes_key: str,
    table_key: str,
    genes: Sequence[str],
    *,
    layer: str | None = None,
    scale: Scale = LOG1P_10K,
) -> np.ndarray:
    """Return measured genes (n, genes) on a scale in the order of the shapes; NaN if not measured.

    `layer` has raw counts; by default `X`, which is not transformed if ``uns["log1p"]`` marks it as log scale.
    """
    table = sdata.tables[table_key]
    if layer is None and "log1p" in table.uns:
        return _spread(table, sdata, shapes_key, table.X, genes)
    where = f"X of table {table_key!r}"
    if layer is not None:
        where = f"Layer {key_in(layer, table.layers, f'layers of table {table_key!r}')!r} of table {table_key!r}"
    counts = check_counts(table.X if layer is None else table.layers[layer], where)
    known = [gene for gene in genes if gene in table.var_names]
    depth = np.asarray(counts.sum(axis=1)).ravel()
    values = normalize(counts[:, _columns(table, known)], depth, scale)
    return _spread(table[:, known], sdata, shapes_key, values, genes)


def predicted_values(
    sdata: SpatialData, shapes_key: str, table_key: str, genes: Sequence[str], *, layer: str | None = None
) -> np.ndarray:
    """Return genes (n, genes) of a table of this package in the order of the shapes; NaN without a value."""
    table = sdata.tables[table_key]
    if layer is not None:
        key_in(layer, table.layers, f"layers of table {table_key!r}")
    return _spread(table, sdata, shapes_key, table.X if layer is None else table.layers[layer], genes)


def expression_values(
    sdata: SpatialData, shapes_key: str, table_key: str, genes: Sequence[str], *, layer: str | None = None
) -> np.ndarray:
    """Return genes (n, genes) of any table on the log scale; counts of a measured table are transformed."""
    read = predicted_values if is_deepspot_table(sdata.tables[table_key]) else measured_values
    return read(sdata, shapes_key, table_key, genes, layer=layer)


def label_positions(sdata: SpatialData, table_key: str, shapes_key: str, key: str) -> pd.Series:
    """Return the labels (n,) of shapes, categorical in the order of the shapes; missing without a row in the table."""
    import pandas as pd

    labels = labels_of(sdata, table_key, key)
    rows, positions = match_rows(sdata.tables[table_key], sdata, shapes_key)
    codes = np.full(len(sdata.shapes[shapes_key]), -1)
    codes[positions] = labels.cat.codes.to_numpy()[rows]
    return pd.Series(pd.Categorical.from_codes(codes, dtype=labels.dtype))


def ood_spots(sdata: SpatialData, shapes_key: str, table_key: str) -> np.ndarray | None:
    """Return which shapes (n,) are out of distribution by a table of this package; None if it does not say."""
    table = sdata.tables[table_key]
    if not is_deepspot_table(table) or "ood" not in table.obs:
        return None
    rows, positions = match_rows(table, sdata, shapes_key)
    ood = np.zeros(len(sdata.shapes[shapes_key]), dtype=bool)
    ood[positions] = table.obs["ood"].to_numpy(dtype=bool)[rows]
    return ood


def describe_values(sdata: SpatialData, table_key: str, layer: str | None = None) -> str:
    """Return the kind of values for a title: measured, predicted, corrected, or the name of a layer."""
    what = kind_of(sdata.tables[table_key])
    if what is None or layer == "measured":
        return "measured"
    if layer is not None and layer != CORRECTED:
        return layer
    return {PREDICTION: "predicted"}.get(what, what)


def training_note(sdata: SpatialData, table_key: str | None) -> str:
    """Return a note for the title if the model of a table learned from this slide, see :func:`deepspot.tl.predict`."""
    uns = {} if table_key is None else sdata.tables[table_key].uns.get(UNS, {})
    return " (training slide)" if uns.get(LEARNED) == "yes" else ""


def unit_label(sdata: SpatialData, table_key: str, layer: str | None = None, scale: Scale = LOG1P_10K) -> str:
    """Return the label of the color bar of a gene; `scale` is that of measured counts."""
    table = sdata.tables[table_key]
    if layer is None and "log1p" in table.uns and not is_deepspot_table(table):
        return "log expression, as in the table"
    return str(table.uns.get(UNS, {}).get("scale", scale.text))


def _columns(table: AnnData, genes: Sequence[str]) -> np.ndarray:
    if not table.var_names.is_unique:
        raise InputError("Gene names of the table are not unique. Call `var_names_make_unique` on it first.")
    return table.var_names.get_indexer(list(genes))


def _spread(table: AnnData, sdata: SpatialData, shapes_key: str, X: Any, genes: Sequence[str]) -> np.ndarray:
    rows, positions = match_rows(table, sdata, shapes_key)
    columns = _columns(table, genes)
    known = np.flatnonzero(columns >= 0)
    part = X[:, columns[known]][rows]
    values = np.full((len(sdata.shapes[shapes_key]), len(columns)), np.nan)
    values[np.ix_(positions, known)] = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
    return values


def groups_of(results: pd.DataFrame, groups: str | Sequence[str] | None, argument: str) -> list[str]:
    """Return the names of the groups of a result as text, in its order; by default all."""
    known = list(dict.fromkeys(results["group"].astype(str)))
    if groups is not None and not len(groups):
        raise InputError(f"`{argument}` is empty. Name at least one of the groups {known}, or leave it out.")
    return keys_in(groups, known, "groups of the result")
