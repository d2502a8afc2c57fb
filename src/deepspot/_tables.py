"""Find tables in a SpatialData and match their rows to spots, always by instance and never by order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import _check, _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

SHARED = 0.5


def annotating(sdata: SpatialData, shapes_key: str) -> list[str]:
    """Names of the tables that annotate a shapes element."""
    found = []
    for key, table in sdata.tables.items():
        regions = table.uns.get("spatialdata_attrs", {}).get("region", [])
        if shapes_key in ([regions] if isinstance(regions, str) else list(regions)):
            found.append(key)
    return found


def is_ours(table: AnnData) -> bool:
    """Whether this package made a table."""
    return _keys.UNS in table.uns


def measured_key(sdata: SpatialData, shapes_key: str, table_key: str | None) -> str:
    """Name of the table with the measured genes of a shapes element."""
    names = annotating(sdata, shapes_key)
    if table_key is None:
        names = [name for name in names if not is_ours(sdata.tables[name])]
    return _check.one_key(table_key, names, f"sdata.tables annotating {shapes_key!r}", "table_key")


def link_keys(sdata: SpatialData, shapes_key: str) -> tuple[str, str]:
    """Region and instance column to use for a new table: those of the measured one, where there is one."""
    for name in annotating(sdata, shapes_key):
        attrs = sdata.tables[name].uns["spatialdata_attrs"]
        return attrs["region_key"], attrs["instance_key"]
    return _keys.LINK


def rows_of(table: AnnData, shapes_key: str) -> pd.Series:
    """Instances of a shapes element in a table (values) by row number (index)."""
    attrs = table.uns["spatialdata_attrs"]
    rows = np.flatnonzero(table.obs[attrs["region_key"]].astype(str) == shapes_key)
    return pd.Series(table.obs[attrs["instance_key"]].to_numpy()[rows], index=rows)


def match(table: AnnData, sdata: SpatialData, shapes_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a table and positions of the shapes that they describe, in the order of the shapes."""
    rows, shapes = rows_of(table, shapes_key), sdata.shapes[shapes_key].index
    if rows.duplicated().any():
        raise ValueError(
            f"A table names spot {rows[rows.duplicated()].iloc[0]!r} of {shapes_key!r} more than once, so its rows "
            "cannot be matched. Keep one row for each spot."
        )
    found = pd.Index(rows).get_indexer(shapes)
    return rows.index.to_numpy()[found[found >= 0]], np.flatnonzero(found >= 0)


def check_shared(wanted: Sequence[str], table: AnnData, table_key: str) -> None:
    """Raise if a table measures under half of the genes that it is to be compared with."""
    shared = int(table.var_names.isin(list(wanted)).sum())
    if shared < SHARED * len(wanted):
        raise ValueError(
            f"Table {table_key!r} measures {shared} of the {len(wanted):,} genes to compare, under half. It names "
            f"genes like {list(table.var_names[:3])}, these are like {list(wanted[:3])}: another species, or other "
            "identifiers (`gene_id_key` when reading)?"
        )


def array_positions(sdata: SpatialData, shapes_key: str) -> np.ndarray | None:
    """Row and column (n, 2) of the spots in the array of their technology, in the order of the shapes, if known."""
    shapes = sdata.shapes[shapes_key]
    columns = list(_keys.ARRAY)
    if set(columns) <= set(shapes.columns):
        return shapes[columns].to_numpy(dtype=float)
    for name in annotating(sdata, shapes_key):
        table = sdata.tables[name]
        if set(columns) <= set(table.obs.columns):
            rows, at = match(table, sdata, shapes_key)
            positions = np.full((len(shapes), 2), np.nan)
            positions[at] = table.obs.iloc[rows][columns].to_numpy(dtype=float)
            return positions if np.isfinite(positions).all() else None
    return None
