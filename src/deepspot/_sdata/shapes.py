"""Writing shapes to a SpatialData; `write.py` does so for tables and columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from deepspot._core.logging import logger
from deepspot.errors import InputError

from .tables import rows_of, tables_annotating
from .write import check_case, check_new_key, hint_to_save

if TYPE_CHECKING:
    import pandas as pd
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData


def check_not_annotated(sdata: SpatialData, key: str, own: Collection[str] = ()) -> None:
    """Raise if tables other than `own` annotate shapes that will be replaced: their rows would have other places."""
    if others := [name for name in tables_annotating(sdata, key) if name not in own]:
        what = "would be replaced" if key in sdata.shapes else "was deleted and would be others"
        raise InputError(
            f"sdata.shapes[{key!r}] {what}, but tables {others} annotate it. Delete these tables first "
            "(`del sdata.tables[...]`), or choose another name."
        )


def _fits(sdata: SpatialData, table_key: str, shapes: GeoDataFrame, key: str) -> bool:
    """Return whether the rows of a table are those of shapes that will be added."""
    rows = rows_of(sdata.tables[table_key], key)
    return len(rows) == len(shapes) and bool(rows.isin(shapes.index).all())


def add_shapes(
    sdata: SpatialData,
    key: str,
    shapes: GeoDataFrame,
    *,
    what: str,
    overwrite: bool = False,
    own: Collection[str] = (),
) -> None:
    """Add a shapes element and log one line; tables `own` will be replaced with it."""
    check_new_key(sdata, key, overwrite=overwrite, kind="shapes")
    if key in sdata.shapes:
        if not _same_places(sdata.shapes[key], shapes):
            check_not_annotated(sdata, key, own)
    else:  # tables of shapes that were deleted
        fitting = [name for name in tables_annotating(sdata, key) if _fits(sdata, name, shapes, key)]
        check_not_annotated(sdata, key, [*own, *fitting])
    shapes.index.name = None
    sdata.shapes[key] = shapes
    logger.info("Added %s %s to sdata.shapes[%r].%s", f"{len(shapes):,}", what, key, hint_to_save(sdata, key))


def drop_shapes(sdata: SpatialData, key: str) -> None:
    """Remove a shapes element from the object in memory, if it exists."""
    if key in sdata.shapes:
        del sdata.shapes[key]
        logger.info("Removed sdata.shapes[%r].", key)


def _same_places(old: GeoDataFrame, new: GeoDataFrame) -> bool:
    return old.index.equals(new.index) and bool(old.geometry.geom_equals_exact(new.geometry, 1e-6).all())


def set_column(sdata: SpatialData, shapes_key: str, column: str, value: float) -> None:
    """Set a column of a shapes element to one number."""
    sdata.shapes[shapes_key][column] = float(value)


def check_shape_columns(sdata: SpatialData, shapes_key: str, columns: Iterable[str], *, overwrite: bool) -> None:
    """Raise unless columns can be added to a shapes element under these names."""
    shapes, columns = sdata.shapes[shapes_key], list(columns)
    for name in columns:
        check_case(name, shapes, f"sdata.shapes[{shapes_key!r}]")
    taken = [name for name in columns if name in shapes]
    if taken and not overwrite:
        raise InputError(f"sdata.shapes[{shapes_key!r}] has the columns {taken} already. Pass `overwrite=True`.")


def add_shape_columns(sdata: SpatialData, shapes_key: str, columns: pd.DataFrame, *, overwrite: bool = False) -> None:
    """Add columns of numbers, in the order of the shapes, to a shapes element, and log one line."""
    check_shape_columns(sdata, shapes_key, columns, overwrite=overwrite)
    for name, values in columns.items():
        sdata.shapes[shapes_key][name] = values.to_numpy()
    logger.info("Added %s to sdata.shapes[%r].", list(columns), shapes_key)
