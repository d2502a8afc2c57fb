"""Data frames that tools leave in a table, for figures and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepspot import _check

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData


def results_of(
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
        _check.key_in(table_key, sdata.tables, "sdata.tables")
    if not holding or (table_key is not None and table_key not in holding):
        where = "No table" if table_key is None else f"Table {table_key!r}"
        raise KeyError(f"{where} has a result in `{slot}[{key!r}]`. Call `{call}` first. Tables with one: {holding}.")
    table_key = _check.one_key(table_key, holding, f"sdata.tables with {slot}[{key!r}]", "table_key")
    return table_key, getattr(sdata.tables[table_key], slot)[key]


def groups_of(results: pd.DataFrame, groups: str | Sequence[str] | None, argument: str) -> list[str]:
    """Names of the groups of a result as text, in their order there; all, or those that were asked for."""
    known = list(dict.fromkeys(results["group"].astype(str)))
    if groups is None:
        return known
    wanted = [groups] if isinstance(groups, str) else [str(group) for group in groups]
    if not wanted:
        raise ValueError(f"`{argument}` is empty. Name at least one of the groups {known}, or leave it out.")
    return [_check.key_in(group, known, "groups of the result") for group in wanted]
