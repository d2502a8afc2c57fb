from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import key_in
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_positive
from deepspot.errors import InputError, InputTypeError, MissingKeyError

from .agreement import BULK, PSEUDOBULK, BulkAgreement, compare
from .profiles import log_values

if TYPE_CHECKING:
    from anndata import AnnData

Columns = str | Sequence[str]
ALL = "all"
FEWEST = 5
SEPARATOR = "\0"


def bulk_agreement(
    pseudobulk: AnnData,
    bulk: AnnData | pd.DataFrame,
    *,
    match: Columns | Mapping[str, Columns],
    preservation: str = "preservation",
    n_permutations: int = 1000,
    seed: int | None = None,
) -> BulkAgreement:
    """Compare profiles of slides with bulk RNA of the same patients, gene by gene.

    A gene's r is over patients, so that it does not ask whether a gene is high or low in general. Frozen sections come
    from the very piece of tissue that was sequenced, and are matched by a sample; FFPE slides come from another piece,
    and are matched by patient and type of tumor. Columns are named for each, and nothing is guessed:
    ``match={"FF": "sample", "FFPE": ["patient", "tumor_type"]}``.

    What chance does is found by shuffling the bulk profiles: for every gene, and for the mean over genes. As a whole
    profile is dealt out, genes that go together do so in the shuffled data too. Several slides with one bulk profile
    stay together. Profiles are shuffled, and not patients: where several pieces of one patient were sequenced, each of
    their profiles is dealt out by itself, although they resemble one another. The shuffled range is then too narrow
    and p too small; keep one profile of each patient where that matters.

    Parameters
    ----------
    pseudobulk
        Profiles of slides, of :func:`deepspot.cohort.pseudobulk` or :func:`deepspot.cohort.run`.
    bulk
        Bulk RNA of patients on a log scale, or as z-scores: an AnnData, or a data frame whose columns are genes, but
        for those to match by, which may be its index too.
    match
        Column, or several that must all agree, in `obs` of the profiles and in the bulk RNA; compared as text. Or a
        mapping from a kind of preservation to such columns.
    preservation
        Column of the profiles with the kind of preservation, if `match` is a mapping.
    n_permutations
        How often bulk profiles are shuffled. No p-value is below 1 / (this + 1): with few genes that agree among many,
        more are needed until any has a small q.
    seed
        Of the permutations; None falls back to the settings.

    Returns
    -------
    r of all genes with p and q, the mean over genes with that of shuffled profiles, and what was not matched.
    Slides without a kind of preservation are not matched if `match` goes by it.

    Raises
    ------
    KeyError
        If a column is missing on one side, or a kind of preservation.
    TypeError
        If `bulk` is neither.
    ValueError
        If under 5 bulk profiles are matched, one slide has several, no gene is shared, or values are raw counts.

    References
    ----------
    DeepSpot, section 4.3.1 and figure 6B.

    Examples
    --------
    >>> import deepspot as ds
    >>> import numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> patients, genes = [f"P{n}" for n in range(40)], [f"G{n}" for n in range(50)]
    >>> rng = np.random.default_rng(0)
    >>> bulk = pd.DataFrame(rng.standard_normal((40, 50)), index=patients, columns=genes)
    >>> predicted = bulk.to_numpy() + rng.standard_normal((40, 50))
    >>> profiles = AnnData(predicted, pd.DataFrame({"patient": patients}, patients), pd.DataFrame(index=genes))
    >>> found = ds.cohort.bulk_agreement(profiles, bulk, match="patient", n_permutations=100)
    >>> bool(found.summary().loc["all", "mean"] > 0.6)
    True
    """
    check_positive(n_permutations, "n_permutations")
    groups = _read_groups(pseudobulk.obs, match, preservation)
    bulk = _as_anndata(bulk, [column for columns, _ in groups.values() for column in columns])
    genes = _shared_genes(pseudobulk, bulk)
    slides, bulks = log_values(pseudobulk, "the pseudobulk", genes), log_values(bulk, "the bulk RNA", genes)
    seed = settings.seed if seed is None else seed
    pairs, matched, unmatched = {}, [], []
    if isinstance(match, Mapping):
        unknown = pseudobulk.obs_names[pseudobulk.obs[preservation].isna()]
        unmatched.append(pd.DataFrame({"group": f"no {preservation}", "side": PSEUDOBULK, "name": unknown}))
    for group, (columns, ours) in groups.items():
        obs = pseudobulk.obs.iloc[ours]
        rows, theirs = _match(obs, bulk.obs, columns, group)
        pairs[group] = ours[rows], theirs
        matched.append(pd.DataFrame({"group": group, "profile": obs.index[rows], "bulk": bulk.obs_names[theirs]}))
        unmatched.append(pd.DataFrame({"group": group, "side": PSEUDOBULK, "name": obs.index.delete(rows)}))
    seen = np.concatenate([theirs for _, theirs in pairs.values()])
    unmatched.append(pd.DataFrame({"group": ALL, "side": BULK, "name": bulk.obs_names.delete(np.unique(seen))}))
    tables, null = [], {}
    for group, (ours, theirs) in pairs.items():
        table, null[group] = compare(slides[ours], bulks, theirs, n_permutations, seed)
        tables.append(table.assign(group=group, gene=genes)[["group", "gene", *table.columns]])
    order = pseudobulk.var.loc[genes].select_dtypes("number")
    table, pairing, left_out = (pd.concat(parts, ignore_index=True) for parts in (tables, matched, unmatched))
    result = BulkAgreement(table, pairing, left_out, null, order, seed)
    counts = left_out.groupby(["side", "group"], sort=False).size()
    parts = [
        f"{n} of {side} ({group})" if side == PSEUDOBULK else f"{n} of bulk RNA" for (side, group), n in counts.items()
    ]
    logger.info("%r\nWithout a match: %s.", result, ", ".join(parts) or "none")
    return result


def _as_anndata(bulk: AnnData | pd.DataFrame, columns: Iterable[str]) -> AnnData:
    """Bulk RNA as an AnnData with the columns to match by in `obs`; rows keep their names, as text.

    In a data frame all other columns are genes; a single column to match by may be its index.
    """
    from anndata import AnnData
    from anndata.utils import make_index_unique

    if isinstance(bulk, AnnData):
        return bulk
    if not isinstance(bulk, pd.DataFrame):
        raise InputTypeError(f"`bulk` must be an AnnData or a data frame, got {type(bulk).__name__}.")
    wanted = list(dict.fromkeys(columns))
    named = [name for name in bulk.index.names if name is not None and name not in bulk.columns]
    if not named and len(wanted) == 1 and wanted[0] not in bulk.columns:
        bulk, named = bulk.rename_axis(wanted[0]), wanted
    table = bulk.reset_index(named) if named else bulk
    obs = table[[column for column in dict.fromkeys([*named, *wanted]) if column in table.columns]]
    genes = table.drop(columns=obs.columns)
    text = [str(column) for column in genes.columns if not pd.api.types.is_numeric_dtype(genes[column])]
    if text:
        raise InputError(
            f"Columns of `bulk` are not numbers: {text[:5]}. In a data frame all columns but those to match by are "
            "genes. Drop the others, or pass an AnnData with them in `obs`."
        )
    parts = [name if isinstance(name, tuple) else (name,) for name in bulk.index]
    names = make_index_unique(pd.Index(["_".join(map(str, name)) for name in parts]))
    return AnnData(
        genes.to_numpy(dtype=np.float64), obs=obs.set_axis(names), var=pd.DataFrame(index=genes.columns.astype(str))
    )


def _read_groups(
    obs: pd.DataFrame, match: Columns | Mapping[str, Columns], preservation: str
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Columns to match by and rows of the profiles, for each way of preservation, or for all profiles."""
    if not isinstance(match, Mapping):
        return {ALL: (_listed(match), np.arange(len(obs)))}
    column = obs[key_in(preservation, obs.columns, "obs of the pseudobulk")]
    kinds = column.dropna().astype(str).unique()
    for kind in kinds:
        if kind not in match:
            raise MissingKeyError(
                f"`match` does not say how {kind!r} of obs[{preservation!r}] are matched. It names {list(match)}. Add "
                "it, or leave these profiles out."
            )
    for kind in match:
        key_in(kind, kinds, f"obs[{preservation!r}] of the pseudobulk")
    text = column.astype(str).to_numpy()
    return {str(kind): (_listed(columns), np.flatnonzero(text == kind)) for kind, columns in match.items()}


def _listed(columns: Columns) -> list[str]:
    listed = [columns] if isinstance(columns, str) else list(columns)
    if not listed:
        raise InputError("`match` names no column. Name the one by which profiles and bulk RNA belong together.")
    return listed


def _match(
    slides: pd.DataFrame, bulk: pd.DataFrame, columns: Sequence[str], group: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the profiles, and of the bulk RNA of each, where all columns agree as text."""
    for column in columns:
        key_in(column, slides.columns, "obs of the pseudobulk")
        key_in(column, bulk.columns, "the bulk RNA")
    ours, theirs = _keys(slides, columns), _keys(bulk, columns)
    wanted = theirs[theirs.isin(ours.dropna())]
    twice = wanted[wanted.duplicated()]
    if len(twice):
        key = dict(zip(columns, twice.iloc[0].split(SEPARATOR), strict=True))
        raise InputError(f"Several profiles of bulk RNA have {key}. Match by more columns, or keep one of them.")
    at = pd.Index(wanted).get_indexer(pd.Index(ours))
    rows = np.flatnonzero(at >= 0)
    if len(wanted) < FEWEST:
        examples = {"pseudobulk": slides, "bulk RNA": bulk}
        named = {side: obs[list(columns)].astype(str).head(2).to_dict("list") for side, obs in examples.items()}
        raise InputError(
            f"Of {len(slides)} profiles of {group!r} and {len(bulk)} of bulk RNA, {len(wanted)} of the latter are "
            f"matched by {list(columns)}; {FEWEST} are needed. They look like {named}: bring them to the same text."
        )
    return rows, wanted.index.to_numpy()[at[rows]]


def _keys(frame: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """One text for each row by its number; None where any part is missing."""
    parts = zip(*(frame[column].astype(str).str.strip() for column in columns), strict=True)
    known = frame[list(columns)].notna().all(axis=1).to_numpy()
    return pd.Series([SEPARATOR.join(part) for part in parts], dtype=object).where(known, None)


def _shared_genes(pseudobulk: AnnData, bulk: AnnData) -> pd.Index:
    genes = pseudobulk.var_names[pseudobulk.var_names.isin(bulk.var_names)]
    if not len(genes):
        raise InputError(
            f"The pseudobulk has genes like {list(pseudobulk.var_names[:3])}, the bulk RNA like "
            f"{list(bulk.var_names[:3])}, and none in common. Bring them to the same names."
        )
    if len(genes) < pseudobulk.n_vars:
        logger.info("Bulk RNA has %s of the %s genes.", f"{len(genes):,}", f"{pseudobulk.n_vars:,}")
    return genes
