"""Lookup of tables in a SpatialData. Rows are matched to spots by instance, never by order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import (
    AGREEMENT,
    ARRAY,
    CORRECTED,
    LINK,
    LINK_OF_POLYGONS,
    PARENT,
    PREDICTION,
    SCALE,
    UNS,
    key_in,
    one_key,
)
from deepspot._core.validate import check_genes
from deepspot._stats.normalize import LOG1P_10K, Scale, known_scale
from deepspot.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def tables_annotating(sdata: SpatialData, shapes_key: str) -> list[str]:
    """Return the names of the tables that annotate a shapes element."""
    # spatialdata.get_element_annotators compares with `in`: it takes a table of "spots_grid" for one of "spots".
    return [name for name, table in sdata.tables.items() if shapes_key in _regions(table)]


def regions_of(sdata: SpatialData, table_key: str) -> list[str]:
    """Return the names of the existing shapes elements that a table annotates."""
    return [name for name in _regions(sdata.tables[table_key]) if name in sdata.shapes]


def _regions(table: AnnData) -> list[str]:
    regions = table.uns.get("spatialdata_attrs", {}).get("region", [])
    return [regions] if isinstance(regions, str) else list(regions)


def is_deepspot_table(table: AnnData) -> bool:
    """Check whether this package created a table."""
    return UNS in table.uns


def comparable_scale(table: AnnData) -> Scale:
    """Return the scale to which counts are transformed to compare them with a table: its own, the usual if unknown."""
    return known_scale(table.uns.get(UNS, {}).get("scale", SCALE)) or LOG1P_10K


def evaluated_tables(sdata: SpatialData) -> list[str]:
    """Return the names of the predicted tables with results of :func:`deepspot.tl.evaluate`."""
    tables = sdata.tables.items()
    return [key for key, table in tables if kind_of(table) == PREDICTION and AGREEMENT in table.uns[UNS]]


def kind_of(table: AnnData) -> str | None:
    """Return the kind of a table of this package, and None for other tables."""
    return table.uns.get(UNS, {}).get("kind")


def tables_of_kind(sdata: SpatialData, shapes_key: str, *kinds: str) -> list[str]:
    """Return the names of the tables of some kinds that annotate a shapes element."""
    return [name for name in tables_annotating(sdata, shapes_key) if kind_of(sdata.tables[name]) in kinds]


def find_measured_table(sdata: SpatialData, shapes_key: str, table_key: str | None) -> str:
    """Return the name of the table with the measured genes of a shapes element."""
    names = tables_annotating(sdata, shapes_key)
    if table_key is None:
        names = [name for name in names if not is_deepspot_table(sdata.tables[name])]
    hint = "Add a table of raw counts that annotates the shapes, or name other shapes as `shapes_key=`."
    return one_key(table_key, names, f"sdata.tables annotating {shapes_key!r}", "table_key", hint)


def is_finer(table: AnnData) -> bool:
    """Return whether a table predicts places finer than spots."""
    return kind_of(table) == PREDICTION and table.uns[UNS].get("resolution", "spot") != "spot"


def find_expression_table(sdata: SpatialData, table_key: str | None) -> str:
    """Return the name of the table with genes to analyze: by default the predicted or corrected one."""
    if table_key is not None:
        return key_in(table_key, sdata.tables, "sdata.tables")
    ours = [name for name, table in sdata.tables.items() if kind_of(table) in (PREDICTION, CORRECTED)]
    if not ours:
        raise MissingKeyError(
            "No table holds predicted or corrected genes. Call `ds.tl.predict(sdata)` first, or pass the name of a "
            "table with measured genes on the log scale as `table_key=`."
        )
    # Predictions for spots take precedence over those for sub-spots and grids.
    whole = [name for name in ours if not any(PARENT in sdata.shapes[region] for region in regions_of(sdata, name))]
    return one_key(None, whole or ours, "predicted and corrected genes in sdata.tables", "table_key")


def labels_of(sdata: SpatialData, table_key: str, key: str) -> pd.Series:
    """Return labels of the rows of a table: a column of its `obs`, else of the shapes that it annotates.

    The result is a categorical of strings, indexed by the names of the observations; rows without a label are NaN.
    """
    table = sdata.tables[table_key]
    found = {name: sdata.shapes[name] for name in regions_of(sdata, table_key) if key in sdata.shapes[name]}
    if key in table.obs:
        values = table.obs[key]
    elif found:
        values = pd.Series(np.nan, index=table.obs_names, dtype=object)
        for name, shapes in found.items():
            rows, at = match_rows(table, sdata, name)
            values.iloc[rows] = shapes[key].astype(object).to_numpy()[at]
        kinds = [shapes[key].dtype for shapes in found.values()]
        if isinstance(kinds[0], pd.CategoricalDtype) and all(kind == kinds[0] for kind in kinds):
            values = values.astype(kinds[0])
    else:
        raise MissingKeyError(_labels_message(sdata, table_key, key))
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype("category")
    values = values.cat.remove_unused_categories()
    names = [str(name) for name in values.cat.categories]
    if len(set(names)) < len(names):
        raise InputError(
            f"Column {key!r} of table {table_key!r} has different labels of the same text: "
            f"{list(values.cat.categories)}. Convert the column to text first."
        )
    return values.cat.rename_categories(names)


def _labels_message(sdata: SpatialData, table_key: str, key: str) -> str:
    names = regions_of(sdata, table_key)
    columns = {name: [column for column in sdata.shapes[name].columns if column != "geometry"] for name in names}
    others = [other for name in names for other in tables_annotating(sdata, name) if key in sdata.tables[other].obs]
    hint = "".join(f" Table {other!r} has it in `obs`: pass `table_key={other!r}`, or copy it." for other in others[:1])
    return (
        f"Key `{key!r}` not found in `obs of table {table_key!r}` or `its shapes`. Available keys: "
        f"{list(sdata.tables[table_key].obs)}, and in shapes {columns}.{hint}"
    )


MARKER_COLUMNS = ("group", "gene", "logfoldchange", "significant")
"""Columns of a result of :func:`deepspot.tl.markers` that other functions read."""


def find_result(
    sdata: SpatialData,
    table_key: str | None,
    key: str,
    call: str,
    *,
    slot: str = "uns",
    columns: Collection[str] = (),
) -> tuple[str, pd.DataFrame]:
    """Find the data frame that `call` stored under `key`, with these columns: name of the table, and the frame.

    `table_key` is needed only if several tables have such a result.
    """
    holding = [name for name, table in sdata.tables.items() if hasattr(getattr(table, slot).get(key), "columns")]
    if table_key is not None:
        key_in(table_key, sdata.tables, "sdata.tables")
    if not holding or (table_key is not None and table_key not in holding):
        where = "No table" if table_key is None else f"Table {table_key!r}"
        raise MissingKeyError(
            f"{where} has a result in `{slot}[{key!r}]`. Call `{call}` first. Tables with one: {holding}."
        )
    table_key = one_key(table_key, holding, f"sdata.tables with {slot}[{key!r}]", "table_key")
    frame = getattr(sdata.tables[table_key], slot)[key]
    if missing := [column for column in columns if column not in frame]:
        raise MissingKeyError(
            f"sdata.tables[{table_key!r}].{slot}[{key!r}] is no result of `{call}`: it lacks the columns {missing}."
        )
    return table_key, frame


def link_keys(sdata: SpatialData, shapes_key: str) -> tuple[str, str]:
    """Return the region and instance column for a new table: those of the first table of the shapes, if any.

    Cells, nuclei and bins, which are polygons, are no spots.
    """
    for name in tables_annotating(sdata, shapes_key):
        attrs = sdata.tables[name].uns["spatialdata_attrs"]
        return attrs["region_key"], attrs["instance_key"]
    shapes = sdata.shapes.get(shapes_key)
    return LINK if shapes is None or "radius" in shapes else LINK_OF_POLYGONS


def rows_of(table: AnnData, shapes_key: str) -> pd.Series:
    """Return the instances of a shapes element in a table, indexed by row number."""
    attrs = table.uns["spatialdata_attrs"]
    for column in (attrs["region_key"], attrs["instance_key"]):
        key_in(column, table.obs, "obs of a table, whose rows this column relates to shapes")
    rows = np.flatnonzero(table.obs[attrs["region_key"]].astype(str) == shapes_key)
    if not len(rows):
        raise InputError(
            f"Column {attrs['region_key']!r} of the table relates its rows to shapes, but none to {shapes_key!r}. If "
            "it was overwritten, restore it, and keep labels in another column."
        )
    return pd.Series(table.obs[attrs["instance_key"]].to_numpy()[rows], index=rows)


def match_rows(table: AnnData, sdata: SpatialData, shapes_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of a table and the positions of their shapes, in the order of the shapes."""
    rows, shapes = rows_of(table, shapes_key), sdata.shapes[shapes_key].index
    if rows.duplicated().any():
        raise InputError(
            f"Spot {rows[rows.duplicated()].iloc[0]!r} of {shapes_key!r} has more than one row in a table, so its rows "
            "cannot be matched. Keep one row for each spot."
        )
    found = pd.Index(rows).get_indexer(shapes)
    return rows.index.to_numpy()[found[found >= 0]], np.flatnonzero(found >= 0)


def known_genes(gene: str | Sequence[str], sdata: SpatialData, table_keys: Sequence[str]) -> list[str]:
    """Return genes as a list; raise if one of them is in none of the tables."""
    names = [str(name) for key in table_keys for name in sdata.tables[key].var_names]
    return check_genes(gene, names, " or ".join(f"sdata.tables[{key!r}]" for key in table_keys))


# Share of the genes that two tables must have in common to be comparable.
MIN_SHARED_GENES = 0.5


def check_shared_genes(wanted: Sequence[str], table: AnnData, table_key: str) -> None:
    """Raise if a table has fewer than half of the genes for a comparison."""
    shared = int(table.var_names.isin(list(wanted)).sum())
    if shared < MIN_SHARED_GENES * len(wanted):
        raise InputError(
            f"Table {table_key!r} measures {shared} of the {len(wanted):,} genes to compare, under half. Its genes "
            f"are like {list(table.var_names[:3])}, the others like {list(wanted[:3])}. Check the species and the "
            "identifiers (`gene_id_key` when reading)."
        )


def array_positions(sdata: SpatialData, shapes_key: str) -> np.ndarray | None:
    """Return the array row and column (n, 2) of the spots, in the order of the shapes, if they are known."""
    shapes = sdata.shapes[shapes_key]
    columns = list(ARRAY)
    if set(columns) <= set(shapes.columns):
        return shapes[columns].to_numpy(dtype=float)
    for name in tables_annotating(sdata, shapes_key):
        table = sdata.tables[name]
        if set(columns) <= set(table.obs.columns):
            rows, at = match_rows(table, sdata, shapes_key)
            positions = np.full((len(shapes), 2), np.nan)
            positions[at] = table.obs.iloc[rows][columns].to_numpy(dtype=float)
            return positions if np.isfinite(positions).all() else None
    return None
