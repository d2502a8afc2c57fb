"""Find tables in a SpatialData and match their rows to spots, always by instance and never by order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import ARRAY, CORRECTED, LINK, PARENT, PREDICTION, UNS, key_in, one_key
from deepspot._core.validate import check_genes
from deepspot.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

MIN_SHARED_GENES = 0.5


def tables_annotating(sdata: SpatialData, shapes_key: str) -> list[str]:
    """Names of the tables that annotate a shapes element."""
    found = []
    for key, table in sdata.tables.items():
        regions = table.uns.get("spatialdata_attrs", {}).get("region", [])
        if shapes_key in ([regions] if isinstance(regions, str) else list(regions)):
            found.append(key)
    return found


def is_deepspot_table(table: AnnData) -> bool:
    """Whether this package made a table."""
    return UNS in table.uns


def kind_of(table: AnnData) -> str | None:
    """What a table of this package holds, or None if it is not of this package."""
    return table.uns.get(UNS, {}).get("kind")


def tables_of_kind(sdata: SpatialData, shapes_key: str, *kinds: str) -> list[str]:
    """Names of the tables that annotate a shapes element and hold this."""
    return [name for name in tables_annotating(sdata, shapes_key) if kind_of(sdata.tables[name]) in kinds]


def find_measured_table(sdata: SpatialData, shapes_key: str, table_key: str | None) -> str:
    """Name of the table with the measured genes of a shapes element."""
    names = tables_annotating(sdata, shapes_key)
    if table_key is None:
        names = [name for name in names if not is_deepspot_table(sdata.tables[name])]
    return one_key(table_key, names, f"sdata.tables annotating {shapes_key!r}", "table_key")


def find_expression_table(sdata: SpatialData, table_key: str | None) -> str:
    """Name of the table with genes to analyze: by default the one that was predicted or corrected."""
    if table_key is not None:
        return key_in(table_key, sdata.tables, "sdata.tables")
    kinds = (PREDICTION, CORRECTED)
    ours = [name for name, table in sdata.tables.items() if kind_of(table) in kinds]
    if not ours:
        raise MissingKeyError(
            "No table holds predicted or corrected genes. Call `ds.tl.predict(sdata)` first, or name a table with "
            "measured genes on the log scale with `table_key=`."
        )
    # What was predicted for parts of spots is no candidate beside what was predicted for spots.
    whole = [name for name in ours if not any(PARENT in sdata.shapes[region] for region in regions_of(sdata, name))]
    return one_key(None, whole or ours, "predicted and corrected genes in sdata.tables", "table_key")


def regions_of(sdata: SpatialData, table_key: str) -> list[str]:
    """Names of the shapes elements that a table annotates, as far as they are there."""
    names = sdata.tables[table_key].uns.get("spatialdata_attrs", {}).get("region", [])
    return [name for name in ([names] if isinstance(names, str) else names) if name in sdata.shapes]


def labels_of(sdata: SpatialData, table_key: str, key: str) -> pd.Series:
    """Labels of the rows of a table: a column of its `obs`, else one of the shapes that it annotates.

    Parameters
    ----------
    sdata
        Where they are.
    table_key
        The table.
    key
        Name of the column.

    Returns
    -------
    Categorical of text, by the names of the observations; NaN where a row has no label.
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
        raise MissingKeyError(_no_labels(sdata, table_key, key))
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype("category")
    values = values.cat.remove_unused_categories()
    return values.cat.rename_categories([str(name) for name in values.cat.categories])


def _no_labels(sdata: SpatialData, table_key: str, key: str) -> str:
    names = regions_of(sdata, table_key)
    columns = {name: [column for column in sdata.shapes[name].columns if column != "geometry"] for name in names}
    others = [other for name in names for other in tables_annotating(sdata, name) if key in sdata.tables[other].obs]
    hint = "".join(f" Table {other!r} has it in `obs`: pass `table_key={other!r}`, or copy it." for other in others[:1])
    return (
        f"Key `{key!r}` not found in `obs of table {table_key!r}` or `its shapes`. Available keys: "
        f"{list(sdata.tables[table_key].obs)}, and in shapes {columns}.{hint}"
    )


def find_result(
    sdata: SpatialData, table_key: str | None, key: str, call: str, *, slot: str = "uns"
) -> tuple[str, pd.DataFrame]:
    """Find the result of a tool.

    Parameters
    ----------
    sdata
        Where the tables are.
    table_key
        Table; needed only if several hold such a result.
    key
        Entry in its `uns`, or in another slot.
    call
        What makes this entry, for the message.
    slot
        Where the entry is.

    Returns
    -------
    Name of the table, and the data frame.
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
    return table_key, getattr(sdata.tables[table_key], slot)[key]


def link_keys(sdata: SpatialData, shapes_key: str) -> tuple[str, str]:
    """Region and instance column to use for a new table: those of the measured one, where there is one."""
    for name in tables_annotating(sdata, shapes_key):
        attrs = sdata.tables[name].uns["spatialdata_attrs"]
        return attrs["region_key"], attrs["instance_key"]
    return LINK


def rows_of(table: AnnData, shapes_key: str) -> pd.Series:
    """Instances of a shapes element in a table (values) by row number (index)."""
    attrs = table.uns["spatialdata_attrs"]
    rows = np.flatnonzero(table.obs[attrs["region_key"]].astype(str) == shapes_key)
    return pd.Series(table.obs[attrs["instance_key"]].to_numpy()[rows], index=rows)


def match_rows(table: AnnData, sdata: SpatialData, shapes_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a table and positions of the shapes that they describe, in the order of the shapes."""
    rows, shapes = rows_of(table, shapes_key), sdata.shapes[shapes_key].index
    if rows.duplicated().any():
        raise InputError(
            f"A table names spot {rows[rows.duplicated()].iloc[0]!r} of {shapes_key!r} more than once, so its rows "
            "cannot be matched. Keep one row for each spot."
        )
    found = pd.Index(rows).get_indexer(shapes)
    return rows.index.to_numpy()[found[found >= 0]], np.flatnonzero(found >= 0)


def known_genes(gene: str | Sequence[str], sdata: SpatialData, table_keys: Sequence[str]) -> list[str]:
    """Return genes as a list, or raise if one of them is in none of the tables."""
    names = [str(name) for key in table_keys for name in sdata.tables[key].var_names]
    return check_genes(gene, names, " or ".join(f"sdata.tables[{key!r}]" for key in table_keys))


def check_shared_genes(wanted: Sequence[str], table: AnnData, table_key: str) -> None:
    """Raise if a table measures under half of the genes that it is to be compared with."""
    shared = int(table.var_names.isin(list(wanted)).sum())
    if shared < MIN_SHARED_GENES * len(wanted):
        raise InputError(
            f"Table {table_key!r} measures {shared} of the {len(wanted):,} genes to compare, under half. It names "
            f"genes like {list(table.var_names[:3])}, these are like {list(wanted[:3])}: another species, or other "
            "identifiers (`gene_id_key` when reading)?"
        )


def array_positions(sdata: SpatialData, shapes_key: str) -> np.ndarray | None:
    """Row and column (n, 2) of the spots in the array of their technology, in the order of the shapes, if known."""
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
