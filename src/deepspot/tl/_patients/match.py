"""Which profile of bulk RNA belongs to which profile of a slide, by what the user says, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.validate import key_in

if TYPE_CHECKING:
    from anndata import AnnData

ALL = "all"
Columns = str | Sequence[str]


def as_bulk(bulk: AnnData | pd.DataFrame, columns: Iterable[str]) -> AnnData:
    """Bulk RNA as an AnnData, with the columns to match by in `obs`; rows keep their names, as text.

    Parameters
    ----------
    bulk
        An AnnData, or a data frame whose columns are genes, but for those to match by.
    columns
        The latter; where there is one alone, it may be the index of the data frame.
    """
    from anndata import AnnData
    from anndata.utils import make_index_unique

    if isinstance(bulk, AnnData):
        return bulk
    if not isinstance(bulk, pd.DataFrame):
        raise TypeError(f"`bulk` must be an AnnData or a data frame, got {type(bulk).__name__}.")
    wanted = list(dict.fromkeys(columns))
    named = [name for name in bulk.index.names if name is not None and name not in bulk.columns]
    if not named and len(wanted) == 1 and wanted[0] not in bulk.columns:
        bulk, named = bulk.rename_axis(wanted[0]), wanted
    table = bulk.reset_index(named) if named else bulk
    obs = table[[column for column in dict.fromkeys([*named, *wanted]) if column in table.columns]]
    genes = table.drop(columns=obs.columns)
    text = [str(column) for column in genes.columns if not pd.api.types.is_numeric_dtype(genes[column])]
    if text:
        raise ValueError(
            f"Columns of `bulk` are not numbers: {text[:5]}. In a data frame all columns but those to match by are "
            "genes. Drop the others, or pass an AnnData with them in `obs`."
        )
    parts = [name if isinstance(name, tuple) else (name,) for name in bulk.index]
    names = make_index_unique(pd.Index(["_".join(map(str, name)) for name in parts]))
    return AnnData(
        genes.to_numpy(dtype=np.float64), obs=obs.set_axis(names), var=pd.DataFrame(index=genes.columns.astype(str))
    )


def groups(obs: pd.DataFrame, match: Columns | Mapping[str, Columns], preservation: str) -> dict[str, list[str]]:
    """Columns to match by, for each way of preservation, or for all profiles.

    Parameters
    ----------
    obs
        Of the profiles of slides.
    match
        As given by the user.
    preservation
        Column that says how a slide was preserved.
    """
    if not isinstance(match, Mapping):
        return {ALL: _listed(match)}
    kinds = obs[key_in(preservation, obs.columns, "obs of the pseudobulk")].dropna().astype(str).unique()
    for kind in kinds:
        if kind not in match:
            raise KeyError(
                f"`match` does not say how {kind!r} of obs[{preservation!r}] are matched. It names {list(match)}. Add "
                "it, or leave these profiles out."
            )
    for kind in match:
        key_in(kind, kinds, f"obs[{preservation!r}] of the pseudobulk")
    return {str(kind): _listed(columns) for kind, columns in match.items()}


def _listed(columns: Columns) -> list[str]:
    listed = [columns] if isinstance(columns, str) else list(columns)
    if not listed:
        raise ValueError("`match` names no column. Name the one by which profiles and bulk RNA belong together.")
    return listed


def pairs(slides: pd.DataFrame, bulk: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the profiles, and of the bulk RNA of each, where all columns agree as text.

    Parameters
    ----------
    slides, bulk
        `obs` of both.
    columns
        Columns that both have.
    """
    for column in columns:
        key_in(column, slides.columns, "obs of the pseudobulk")
        key_in(column, bulk.columns, "the bulk RNA")
    ours, theirs = _keyed(slides, columns), _keyed(bulk, columns)
    wanted = set(filter(None, ours))
    at: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(theirs):
        if key in wanted:
            if key in at:
                raise ValueError(
                    f"Several profiles of bulk RNA have {dict(zip(columns, key, strict=True))}. Match by more columns, "
                    "or keep one of them."
                )
            at[key] = row
    found = np.array([-1 if key is None else at.get(key, -1) for key in ours], dtype=np.int64)
    return np.flatnonzero(found >= 0), found[found >= 0]


def _keyed(frame: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...] | None]:
    """One tuple of text for each row; None where any part is missing."""
    missing = frame[list(columns)].isna().any(axis=1).to_numpy()
    parts = zip(*(frame[column].astype(str).str.strip() for column in columns), strict=True)
    return [None if lacks else part for lacks, part in zip(missing, parts, strict=True)]
