"""Writing to a SpatialData, which only this file and `shapes.py` do. All that is added can be written to disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deepspot._core.keys import ARRAY, DIAMETER, PARENT, UNS
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot.errors import InputError, InputTypeError

from .tables import rows_of, tables_annotating
from .view import noun_of_table

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


SLOTS = ("obsm", "varm", "layers", "obsp", "varp")
"""Parts of a table that contain arrays."""


def make_table(
    X: Any, *, region: str, instances: pd.Index, region_key: str, instance_key: str, **anndata_fields: Any
) -> AnnData:
    """Create a writable table of `X` (n, g) that annotates the shapes `region`, whose index is `instances` (n,).

    `anndata_fields` are `obs`, `var`, `obsm`, `layers`, `uns`. Raises InputTypeError if one cannot be written to disk.
    """
    import pandas as pd
    from anndata import AnnData
    from spatialdata.models import TableModel

    obs = anndata_fields.pop("obs", pd.DataFrame(index=pd.Index(instances).astype(str)))
    obs = obs.assign(**{region_key: pd.Categorical([region] * len(obs)), instance_key: np.asarray(instances)})
    adata = AnnData(X, obs=obs, **anndata_fields)
    check_writable(adata)
    return TableModel.parse(adata, region=region, region_key=region_key, instance_key=instance_key)


def check_writable(adata: AnnData) -> None:
    """Remove index names and nullable strings, and raise if any part of a table cannot be written to disk."""
    from anndata import AnnData
    from spatialdata.models import TableModel

    adata.obs, adata.var = plain_text(adata.obs), plain_text(adata.var)
    frames = [adata.obs, adata.var] + ([] if adata.raw is None else [adata.raw.var])
    for frame in frames:
        # An index name that is also a column makes the write fail halfway, which breaks the whole store.
        frame.index.name = None
    try:
        TableModel().validate(adata)
    except ValueError as error:
        raise InputError(
            f"{error}\nThese names cannot be written. Rename them, or call `spatialdata.sanitize_table(adata)`."
        ) from error
    # Only these can contain arbitrary Python objects.
    frames_of = {
        axis: {key: value for key, value in getattr(adata, axis).items() if hasattr(value, "columns")}
        for axis in ("obsm", "varm")
    }
    checked = AnnData(obs=adata.obs.copy(), var=adata.var.copy(), uns=dict(adata.uns), **frames_of)
    # Numeric arrays can be written, but not under every name: a row is enough.
    row = adata[:1, :1]
    arrays = AnnData(
        obs=row.obs[[]],
        var=row.var[[]],
        **{slot: dict(getattr(row, slot)) for slot in SLOTS},
    )
    parts = {
        "obs": _without_numbers(checked.obs),
        "var": _without_numbers(checked.var),
        "uns": _without_plain(checked.uns),
        "raw": {} if adata.raw is None else {"var": adata.raw.var},
        **{slot: {**getattr(arrays, slot), **getattr(checked, slot)} for slot in SLOTS},
        # anndata 0.13 has `X` among the layers, as None, and checks their shapes in a whole table only.
        "layers": arrays if any(name is not None for name in arrays.layers) else {},
    }
    problem = _write_error(parts)
    if problem is not None:
        entries = single_entries(checked, arrays, adata.raw)
        where = next((name for name, entry in entries if _write_error({"entry": entry}) is not None), "The table")
        if isinstance(problem, OSError):
            raise InputError(
                f"{where[:MAX_NAME]} cannot be written under this name ({problem.strerror}). Rename it."
            ) from problem
        raise InputTypeError(
            f"{where} cannot be written ({problem}). Convert it to text or numbers, or remove it."
        ) from problem


def plain_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a data frame without nullable strings: text that anndata 0.13 wrote is read by 0.12, but not written."""
    import pandas as pd

    def is_nullable(dtype: object) -> bool:
        return isinstance(dtype, pd.StringDtype) and dtype.na_value is pd.NA

    frame = frame.copy(deep=False)
    if is_nullable(frame.index.dtype):
        frame.index = frame.index.astype(object)
    for name, column in frame.items():
        if is_nullable(column.dtype):
            column = column.astype("category") if column.isna().any() else column.astype(object)
        if isinstance(column.dtype, pd.CategoricalDtype) and is_nullable(column.dtype.categories.dtype):
            column = column.cat.rename_categories(column.cat.categories.astype(object))
        frame[name] = column
    return frame


LONGEST = 255
"""Bytes of a name of a file on all usual file systems."""


def _is_simple(name: Any) -> bool:
    """Whether a name can be written on every system."""
    return isinstance(name, str) and name.isascii() and name.isidentifier() and name[0] != "_" and len(name) <= MAX_NAME


def _without_plain(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries of `uns` without text and numbers under simple names: all can be written, each takes a while."""

    def is_plain(value: Any) -> bool:
        return type(value) in (bool, float, str) and str(value).isascii()

    return {
        name: _without_plain(value) if type(value) is dict else value
        for name, value in entries.items()
        if not (_is_simple(name) and is_plain(value))
    }


def _without_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a data frame without columns of numbers under simple names: all can be written, each takes a while."""

    def are_numbers(dtype: Any) -> bool:
        return isinstance(dtype, np.dtype) and dtype.kind in "biuf" and dtype.itemsize <= 8

    if not frame.columns.is_unique:
        return frame
    return frame[[name for name, dtype in frame.dtypes.items() if not (_is_simple(name) and are_numbers(dtype))]]


def _write_error(parts: Mapping[str, Any]) -> Exception | None:
    """Write the parts of a table to a store in memory and return the error, also that of a name that no file can have.

    What can be written differs between versions of anndata. On disk, the same takes four times as long.
    """
    import warnings

    import zarr
    from anndata.io import write_elem

    files: dict[str, Any] = {}
    group = zarr.group(zarr.storage.MemoryStore(files))
    filled = {name: part for name, part in parts.items() if not isinstance(part, dict) or part}
    with warnings.catch_warnings(action="ignore"):
        try:
            write_elem(group, "table", filled)
            return _name_error(files)
        except Exception as error:
            if isinstance(error, (MemoryError, OSError)):
                raise
            # Any other error would have broken the user's store.
            return error


def _name_error(files: Mapping[str, Any]) -> OSError | None:
    """Return the error of a file system for the first of the paths `files` that it would refuse."""
    for path in map(PurePosixPath, files):
        if any(len(name.encode()) > LONGEST for name in path.parts):
            code = errno.ENAMETOOLONG
        elif any(str(parent) in files for parent in path.parents):
            code = errno.EEXIST
        elif "\0" in str(path):
            code = errno.EINVAL
        else:
            continue
        return OSError(code, os.strerror(code))
    return None


def single_entries(adata: AnnData, arrays: AnnData, raw: Any) -> Iterator[tuple[str, AnnData]]:
    """Split a table, and one row of its arrays, into tables of one entry, each with its name."""
    from anndata import AnnData

    for axis in ("obs", "var"):
        for column in getattr(adata, axis):
            yield f"{axis}[{column!r}]", AnnData(**{axis: getattr(adata, axis)[[column]]})
    for axis, frame in (("obsm", "obs"), ("varm", "var")):
        index = getattr(adata, frame)[[]]
        for key, value in getattr(adata, axis).items():
            yield f"{axis}[{key!r}]", AnnData(**{frame: index, axis: {key: value}})
    for slot in SLOTS:
        for key, value in getattr(arrays, slot).items():
            yield f"{slot}[{key!r}]", AnnData(obs=arrays.obs, var=arrays.var, **{slot: {key: value}})
    if raw is not None:
        yield "raw.var", AnnData(var=raw.var)
    for key, value in adata.uns.items():
        yield f"uns[{key!r}]", AnnData(uns={key: value})


def check_memory(n_bytes: float, what: str, hint: str) -> None:
    """Raise, with a hint, if a table would be larger than `settings.max_table_gb`."""
    if n_bytes > settings.max_table_gb * 1e9:
        raise InputError(
            f"{what} would take {n_bytes / 1e9:.1f} GB in memory, above `ds.settings.max_table_gb` = "
            f"{settings.max_table_gb:g}. {hint}"
        )


RESERVED = {UNS, "log1p", "spatialdata_attrs"}
MAX_NAME = 200
"""Bytes of a name; file systems allow 255, and names are part of others."""


def check_name(name: str) -> None:
    """Raise unless a name can be that of an element, a column or an entry on disk."""
    if not isinstance(name, str):
        raise InputTypeError(f"A name in SpatialData must be text, got {name!r} ({type(name).__name__}).")
    if not name or not all(letter.isalnum() or letter in "_-." for letter in name) or name.startswith(("__", ".")):
        raise InputError(f"{name!r} cannot be a name in SpatialData: use letters, digits, '_', '-' and '.' only.")
    if name.lower() == "zarr.json":
        raise InputError(f"{name!r} cannot be a name in SpatialData: it is that of a file in every store.")
    if len(name.encode()) > MAX_NAME:
        raise InputError(f"The name {name[:40]!r}… has more than {MAX_NAME} bytes. Choose a shorter one.")


def check_case(name: str, existing: Any, where: str) -> None:
    """Raise if an existing name differs by case only, or is that of the index: such names cannot be written."""
    if hasattr(existing, "columns") and existing.index.name == name:
        raise InputError(f"{name!r} is the name of the index of {where}. Choose another name, or rename the index.")
    twins = [other for other in existing if other != name and str(other).lower() == name.lower()]
    if twins:
        raise InputError(f"{name!r} clashes with {twins[0]!r} in {where}: names must differ by more than case.")


def check_new_key(sdata: SpatialData, key: str, *, overwrite: bool = False, kind: str = "tables") -> None:
    """Raise unless a table (or an element of another kind, such as ``"shapes"``) can be added under this name."""
    check_name(key)
    if key in getattr(sdata, kind):
        if overwrite:
            return
        raise InputError(f"sdata.{kind}[{key!r}] exists. Pass `overwrite=True`, or another `key_added`.")
    clashes = [name for _, name, _ in sdata.gen_elements() if name.lower() == key.lower()]
    if clashes:
        raise InputError(f"{key!r} clashes with the element {clashes[0]!r}: names must differ by more than case.")


def add_table(
    sdata: SpatialData, key: str, table: AnnData, *, what: str, overwrite: bool = False, store: Path | None = None
) -> None:
    """Add a table and log one line; `store` is where its matrix is, if not in memory."""
    check_new_key(sdata, key, overwrite=overwrite)
    sdata.tables[key] = table
    rows = noun_of_table(sdata, key).count(table.n_obs)
    hint = hint_to_save(sdata, key) if store is None else f" It is on disk: {store}."
    logger.info("Added %s × %s %s to sdata.tables[%r].%s", rows, f"{table.n_vars:,}", what, key, hint)


def hint_to_save(sdata: SpatialData, key: str) -> str:
    """Explain how to save an element that was added to a SpatialData with a store."""
    if not sdata.is_backed():
        return ""
    if any(path.endswith(f"/{key}") for path in sdata.elements_paths_on_disk()):
        return f" It is in memory: `sdata.delete_element_from_disk({key!r})` and `write_element` replace it on disk."
    return f" It is in memory: `sdata.write_element({key!r})` saves it."


def check_entries(
    sdata: SpatialData, key: str, slot: str, names: Iterable[str], *, overwrite: bool = False, argument: str = ""
) -> None:
    """Raise unless entries can be added to a slot of a table under these names."""
    names = list(names)
    for name in names:
        check_name(name)
        check_case(name, getattr(sdata.tables[key], slot), f"{slot} of sdata.tables[{key!r}]")
        if slot == "uns" and name in RESERVED:
            raise InputError(f"uns[{name!r}] describes the table. Choose another `key_added`.")
    taken = [name for name in names if name in getattr(sdata.tables[key], slot)]
    if taken and not overwrite:
        other = f", or another `{argument}`" if argument else ""
        raise InputError(f"{slot} of sdata.tables[{key!r}] has {taken} already. Pass `overwrite=True`{other}.")


def add_entries(
    sdata: SpatialData, key: str, slot: str, entries: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Add writable entries to `uns` or `obsm` of a table. Logging is left to the caller."""
    from anndata import AnnData

    check_entries(sdata, key, slot, entries, overwrite=overwrite)
    table = sdata.tables[key]
    entries = {name: plain_text(value) if hasattr(value, "columns") else value for name, value in entries.items()}
    check_writable(AnnData(obs=plain_text(table.obs[[]]), **{slot: entries}))
    for name, value in entries.items():
        # Frames in `obsm` need the index of the table, also its dtype.
        framed = slot == "obsm" and hasattr(value, "columns")
        getattr(table, slot)[name] = value.set_axis(table.obs_names) if framed else value


def add_columns(
    sdata: SpatialData,
    key: str,
    columns: pd.DataFrame,
    *,
    what: str,
    slot: Literal["obs", "var"] = "var",
    overwrite: bool = False,
) -> None:
    """Add columns of numbers or labels, indexed by genes or spots, to a table, and log one line."""
    check_entries(sdata, key, slot, columns, overwrite=overwrite)
    frame = getattr(sdata.tables[key], slot)
    for name, values in columns.reindex(frame.index).items():
        frame[name] = values.array
    logger.info("Added %s to %s of sdata.tables[%r].", what, slot, key)


# Columns of shapes that are needed to read them, or that this package reads.
GEOMETRY = ("geometry", "radius", DIAMETER, PARENT, *ARRAY)


def check_labels(sdata: SpatialData, shapes_key: str, key: str, *, overwrite: bool = False) -> dict[str, pd.Series]:
    """Raise unless a column can be added to a shapes element and to `obs` of all tables that annotate it.

    Returns for each of the tables the shapes of its rows, see :func:`rows_of`.
    """
    shapes, tables = sdata.shapes[shapes_key], tables_annotating(sdata, shapes_key)
    check_name(key)
    relations = [sdata.tables[name].uns["spatialdata_attrs"] for name in tables]
    links = {relation[link] for relation in relations for link in ("region_key", "instance_key")}
    if key in {*GEOMETRY, shapes.geometry.name, *links}:
        raise InputError(
            f"Column {key!r} holds positions of spots, or relates them to tables. Choose another `key_added`."
        )
    rows = {name: rows_of(sdata.tables[name], shapes_key) for name in tables}
    check_case(key, shapes, f"sdata.shapes[{shapes_key!r}]")
    for name in tables:
        check_case(key, sdata.tables[name].obs, f"obs of sdata.tables[{name!r}]")
    taken = [f"sdata.shapes[{shapes_key!r}]"] * (key in shapes)
    for name in tables:
        # A table may also annotate other shapes, whose labels are kept.
        if key in sdata.tables[name].obs and sdata.tables[name].obs[key].iloc[rows[name].index].notna().any():
            taken.append(f"obs of sdata.tables[{name!r}]")
    if taken and not overwrite:
        raise InputError(f"Column {key!r} exists already: {taken}. Pass `overwrite=True`, or another `key_added`.")
    return rows


def add_labels(
    sdata: SpatialData,
    shapes_key: str,
    key: str,
    labels: pd.Series,
    *,
    colors: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Add labels or numbers to a shapes element and to `obs` of all tables that annotate it. Return the tables' names.

    `labels` is a categorical, or float, with the index of the shapes; `colors` has one color for each category, stored
    as in scanpy.
    """
    import pandas as pd
    from anndata import AnnData

    rows, shapes = check_labels(sdata, shapes_key, key, overwrite=overwrite), sdata.shapes[shapes_key]
    check_writable(AnnData(obs=pd.DataFrame({key: labels.to_numpy()}, index=[str(i) for i in range(len(labels))])))
    shapes[key] = labels.reindex(shapes.index)
    for name in rows:
        table = sdata.tables[name]
        others = table.obs[key].astype(object) if key in table.obs else pd.Series(None, table.obs_names, dtype=object)
        others.iloc[rows[name].index] = labels.reindex(rows[name]).astype(object).to_numpy()
        if not isinstance(labels.dtype, pd.CategoricalDtype):
            table.obs[key] = pd.to_numeric(others, errors="coerce").astype(np.float64)
            continue
        present = [value for value in pd.unique(others.dropna()) if value not in labels.cat.categories]
        table.obs[key] = pd.Categorical(others, [*present, *labels.cat.categories])
        table.uns.pop(f"{key}_colors", None)
        if colors is not None and not present:
            table.uns[f"{key}_colors"] = list(colors)
    return list(rows)
