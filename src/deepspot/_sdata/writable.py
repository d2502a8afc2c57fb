"""Tables that can be written to disk: they are made, checked and converted here."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot.errors import InputError, InputTypeError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


MAX_NAME = 200
"""Bytes of a name; file systems allow 255, and names are part of others."""
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
    raw = [] if adata.raw is None else [AnnData(var=adata.raw.var)]
    problem = _write_error(checked, arrays, *raw)
    if problem is not None:
        entries = _entries(checked, arrays, adata.raw)
        where = next((name for name, entry in entries if _write_error(entry) is not None), "The table")
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


# Errors of a name: it is too long, or that of another file.
NAMES = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}


def _write_error(*tables: AnnData) -> Exception | None:
    """Write tables to a temporary store and return the error. Those of its disk, and of too little memory, are raised.

    What can be written differs between versions of anndata, and names between a store on disk and one in memory.
    """
    import tempfile
    import warnings

    import zarr
    from anndata.io import write_elem

    # After an error, threads of zarr may still write into the folder while it is deleted.
    scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with scratch as folder, warnings.catch_warnings(action="ignore"):
        try:
            for number, table in enumerate(tables):
                write_elem(zarr.group(folder), str(number), table)
        except Exception as error:
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in NAMES):
                raise
            # Any other error would have broken the user's store.
            return error
    return None


def _entries(adata: AnnData, arrays: AnnData, raw: Any) -> Iterator[tuple[str, AnnData]]:
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
