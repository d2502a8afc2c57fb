"""Door 3: the only file that writes to a SpatialData. What it adds is known to survive being written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._logging import logger

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def make_table(
    X: Any, *, region: str, instances: pd.Index, region_key: str, instance_key: str, **anndata_fields: Any
) -> AnnData:
    """Build a table that annotates a shapes element and can be written.

    Parameters
    ----------
    X
        (n, g) matrix.
    region
        Name of the shapes element.
    instances
        Its index, in the order of the rows.
    region_key, instance_key
        Columns of `obs` to link with.
    anndata_fields
        `obs`, `var`, `obsm`, `layers`, `uns` of the table.

    Raises
    ------
    TypeError
        If a column or an entry could not be written to disk.
    """
    import pandas as pd
    from anndata import AnnData
    from spatialdata.models import TableModel

    obs = anndata_fields.pop("obs", pd.DataFrame(index=pd.Index(instances).astype(str)))
    obs = obs.assign(**{region_key: pd.Categorical([region] * len(obs)), instance_key: np.asarray(instances)})
    adata = AnnData(X, obs=obs, **anndata_fields)
    survive(adata)
    return TableModel.parse(adata, region=region, region_key=region_key, instance_key=instance_key)


def survive(adata: AnnData) -> None:
    """Strip index names, and raise if something in a table could not be written."""
    for axis in ("obs", "var"):
        frame = getattr(adata, axis)
        # An index name that is also a column makes the write fail halfway, which breaks the whole store.
        frame.index.name = None
        for column in frame:
            _check_column(frame[column], f"{axis}[{column!r}]")
    _check_uns(adata.uns, "uns")


def check_key(sdata: SpatialData, key: str, *, overwrite: bool = False) -> None:
    """Raise unless a table may be added under this name."""
    if not key or not all(letter.isalnum() or letter in "_-." for letter in key) or key.startswith(("__", ".")):
        raise ValueError(f"{key!r} cannot be a name in SpatialData: use letters, digits, '_', '-' and '.' only.")
    names = [name for _, name, _ in sdata.gen_elements()]
    if key in sdata.tables:
        if overwrite:
            return
        raise ValueError(f"sdata.tables[{key!r}] exists. Pass `overwrite=True`, or another `key_added`.")
    clashes = [name for name in names if name.lower() == key.lower()]
    if clashes:
        raise ValueError(f"{key!r} clashes with the element {clashes[0]!r}: names must differ by more than case.")


def add_table(sdata: SpatialData, key: str, table: AnnData, *, what: str, overwrite: bool = False) -> None:
    """Add a table and log one line."""
    check_key(sdata, key, overwrite=overwrite)
    sdata.tables[key] = table
    logger.info("Added %s spots × %s %s to sdata.tables[%r].%s", *_line(sdata, key, table, what))


def _line(sdata: SpatialData, key: str, table: AnnData, what: str) -> tuple[str, str, str, str, str]:
    hint = ""
    if sdata.is_backed():
        on_disk = any(path.endswith(f"/{key}") for path in sdata.elements_paths_on_disk())
        hint = f" It is in memory: `sdata.write_element({key!r})` saves it."
        if on_disk:
            hint = (
                f" It is in memory: `sdata.delete_element_from_disk({key!r})` and `write_element` replace it on disk."
            )
    return f"{table.n_obs:,}", f"{table.n_vars:,}", what, key, hint


def _check_column(column: pd.Series, name: str) -> None:
    from pandas.api import types

    values = column.cat.categories if isinstance(column.dtype, types.pandas_dtype("category").__class__) else column
    kind = types.infer_dtype(values, skipna=True)
    fine = kind in ("string", "boolean", "integer", "floating", "mixed-integer-float", "empty")
    if not fine:
        raise TypeError(f"{name} holds {kind} values, which cannot be written. Convert it to text or numbers.")


def _check_uns(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or "/" in key:
                raise TypeError(f"Key {key!r} in {name} must be text without '/', or it cannot be written.")
            _check_uns(item, f"{name}[{key!r}]")
    elif not isinstance(value, str | bool | int | float | np.generic | np.ndarray | list):
        raise TypeError(f"{name} holds {type(value).__name__}, which cannot be written.")
