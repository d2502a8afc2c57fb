from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import checked, key_in
from deepspot._core.logging import logger
from deepspot._core.validate import MOST, check_count, check_seed
from deepspot._sdata.tables import MIN_SHARED_GENES
from deepspot.errors import InputError, InputTypeError, MissingKeyError

from .agreement import BULK, PSEUDOBULK, BulkAgreement, compare
from .profiles import log_values

if TYPE_CHECKING:
    from anndata import AnnData

Columns = str | Sequence[str]
ALL = "all"
MIN_MATCHED = 5
NO_COLUMN = "`match` names no column. Name the column that identifies the bulk RNA of a profile."


@checked
def bulk_agreement(
    pseudobulk: AnnData,
    bulk: AnnData | pd.DataFrame,
    *,
    match: Columns | Mapping[str, Columns],
    preservation_key: str = "preservation",
    n_permutations: int = 1000,
    seed: int | None = None,
) -> BulkAgreement:
    """Compare profiles of slides with bulk RNA of the same patients, gene by gene.

    r of a gene is computed over patients, so it is independent of the mean expression of the gene. Frozen sections come
    from the piece of tissue that was sequenced and are matched by sample. FFPE slides come from another piece and are
    matched by patient and type of tumor. State the columns for each kind of preservation:
    ``match={"FF": "sample", "FFPE": ["patient", "tumor_type"]}``.

    The null distribution of r, for each gene and for the mean over genes, is computed by shuffling the bulk profiles.
    Whole profiles are shuffled, which preserves the correlation between genes, and slides with the same bulk profile
    stay together. Several bulk profiles of one patient are shuffled separately although they are similar, which makes
    the null distribution too narrow and p too small. If this matters, keep one bulk profile for each patient.

    Parameters
    ----------
    pseudobulk
        Profiles of slides, from :func:`deepspot.cohort.pseudobulk` or :func:`deepspot.cohort.run`.
    bulk
        Bulk RNA of patients on a log scale, or as z-scores: an AnnData, or a data frame with a column for each gene and
        the columns to match by. A single column to match by may be the index instead.
    match
        Column, or several that must all agree, in `obs` of the profiles and in the bulk RNA; compared as text. Or a
        mapping from kinds of preservation to such columns.
    preservation_key
        Column of the profiles with the kind of preservation, if `match` is a mapping.
    n_permutations
        Number of permutations. The smallest p is 1 / (n_permutations + 1). If few of many genes agree, more
        permutations are needed for a small q.
    seed
        Seed of the permutations; None uses the settings.

    Returns
    -------
    r of all genes with p and q, the mean over genes with its null distribution, and the profiles without a match.
    If `match` is a mapping, slides without a kind of preservation are not matched.

    Raises
    ------
    KeyError
        If a column or a kind of preservation is missing on one side.
    TypeError
        If `bulk` is neither an AnnData nor a data frame.
    ValueError
        If fewer than 5 bulk profiles are matched, a slide matches several, less than half of the genes of the smaller
        side are shared, or values are not on a log scale.

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
    >>> result = ds.cohort.bulk_agreement(profiles, bulk, match="patient", n_permutations=100)
    >>> bool(result.summary().loc["all", "mean"] > 0.6)
    True
    """
    check_count(n_permutations, "n_permutations", MOST)
    seed = check_seed(seed)
    groups = _read_groups(pseudobulk.obs, match, preservation_key)
    bulk = _as_anndata(bulk, [column for columns, _ in groups.values() for column in columns])
    genes = _shared_genes(pseudobulk, bulk)
    slides, bulks = log_values(pseudobulk, "the pseudobulk", genes), log_values(bulk, "the bulk RNA", genes)
    matches = {group: _match(pseudobulk.obs.iloc[rows], bulk.obs, by, group) for group, (by, rows) in groups.items()}
    tables, null, matched, unmatched = [], {}, [], []
    if isinstance(match, Mapping):
        unknown = pseudobulk.obs_names[pseudobulk.obs[preservation_key].isna()]
        unmatched.append(pd.DataFrame({"group": f"no {preservation_key}", "side": PSEUDOBULK, "name": unknown}))
    for group, (_, rows) in groups.items():
        found, of_bulk = matches[group]
        table, null[group] = compare(slides[rows[found]], bulks, of_bulk, n_permutations, seed)
        tables.append(table.assign(group=group, gene=genes)[["group", "gene", *table.columns]])
        names = pseudobulk.obs_names[rows]
        matched.append(pd.DataFrame({"group": group, "profile": names[found], "bulk": bulk.obs_names[of_bulk]}))
        unmatched.append(pd.DataFrame({"group": group, "side": PSEUDOBULK, "name": names.delete(found)}))
    used = np.unique(np.concatenate([of_bulk for _, of_bulk in matches.values()]))
    unmatched.append(pd.DataFrame({"group": ALL, "side": BULK, "name": bulk.obs_names.delete(used)}))
    order = pseudobulk.var.loc[genes].select_dtypes("number")
    table, pairs, rest = (pd.concat(parts, ignore_index=True) for parts in (tables, matched, unmatched))
    result = BulkAgreement(table, pairs, rest, null, order, seed)
    counts = rest.groupby(["side", "group"], sort=False).size()
    parts = [
        f"{n} of {side} ({group})" if side == PSEUDOBULK else f"{n} of bulk RNA" for (side, group), n in counts.items()
    ]
    logger.info("%r\nWithout a match: %s.", result, ", ".join(parts) or "none")
    return result


def _as_anndata(bulk: AnnData | pd.DataFrame, columns: Iterable[str]) -> AnnData:
    """Return bulk RNA as an AnnData with the columns to match by in `obs`; rows keep their names, as text."""
    from anndata import AnnData
    from anndata.utils import make_index_unique

    if isinstance(bulk, AnnData):
        return bulk
    if not isinstance(bulk, pd.DataFrame):
        raise InputTypeError(f"`bulk` must be an AnnData or a data frame, got {type(bulk).__name__}.")
    wanted = list(dict.fromkeys(columns))
    levels = [name for name in bulk.index.names if name is not None and name not in bulk.columns]
    if not levels and len(wanted) == 1 and wanted[0] not in bulk.columns:
        bulk, levels = bulk.rename_axis(wanted[0]), wanted
    table = bulk.reset_index(levels) if levels else bulk
    obs = table[[column for column in dict.fromkeys([*levels, *wanted]) if column in table.columns]]
    genes = table.drop(columns=obs.columns)
    text = [str(column) for column in genes.columns if not pd.api.types.is_numeric_dtype(genes[column])]
    if text:
        raise InputError(
            f"Columns of `bulk` are not numbers: {text[:5]}. In a data frame, all columns other than those to match by "
            "are genes. Drop the others, or pass an AnnData with them in `obs`."
        )
    names = ["_".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in bulk.index]
    obs = obs.set_axis(make_index_unique(pd.Index(names)))
    return AnnData(genes.to_numpy(dtype=np.float64), obs=obs, var=pd.DataFrame(index=genes.columns.astype(str)))


def _read_groups(
    obs: pd.DataFrame, match: Columns | Mapping[str, Columns], preservation_key: str
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return columns to match by and rows of the profiles, for each kind of preservation or for all profiles."""
    if not isinstance(match, Mapping):
        return {ALL: (_as_list(match), np.arange(len(obs)))}
    if not match:
        raise InputError(NO_COLUMN)
    column = obs[key_in(preservation_key, obs.columns, "obs of the pseudobulk")]
    kinds = column.dropna().astype(str).unique()
    for kind in kinds:
        if kind not in match:
            raise MissingKeyError(
                f"`match` has no columns for {kind!r} of obs[{preservation_key!r}], only for {list(match)}. Add them, "
                "or leave these profiles out."
            )
    for kind in match:
        key_in(kind, kinds, f"obs[{preservation_key!r}] of the pseudobulk")
    text = column.astype(str).to_numpy()
    return {str(kind): (_as_list(columns), np.flatnonzero(text == kind)) for kind, columns in match.items()}


def _as_list(columns: Columns) -> list[str]:
    if not isinstance(columns, Iterable):
        raise InputTypeError(f"`match` must be a column, several columns or a dictionary, got {columns!r}.")
    names = [columns] if isinstance(columns, str) else list(columns)
    if not names:
        raise InputError(NO_COLUMN)
    return names


def _match(
    slides: pd.DataFrame, bulk: pd.DataFrame, columns: Sequence[str], group: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of matched profiles, and the row of the bulk RNA of each; all columns must agree as text."""
    for column in columns:
        key_in(column, slides.columns, "obs of the pseudobulk")
        key_in(column, bulk.columns, "the bulk RNA")
    wanted, available = _match_keys(slides, columns), _match_keys(bulk, columns)
    available = available[available.isin(wanted.dropna())]
    repeated = available[available.duplicated()]
    if len(repeated):
        key = dict(zip(columns, repeated.iloc[0], strict=True))
        raise InputError(f"Several profiles of bulk RNA have {key}. Match by more columns, or keep one of them.")
    if len(available) < MIN_MATCHED:
        examples = {"pseudobulk": slides, "bulk RNA": bulk}
        named = {side: obs[list(columns)].astype(str).head(2).to_dict("list") for side, obs in examples.items()}
        raise InputError(
            f"Of {len(slides)} profiles of {group!r} and {len(bulk)} of bulk RNA, {len(available)} of the latter are "
            f"matched by {list(columns)}; {MIN_MATCHED} are needed. They look like {named}: bring them to the same "
            "text."
        )
    row_of = dict(zip(available, available.index, strict=True))
    at = wanted.map(row_of).to_numpy(dtype=float)
    found = np.flatnonzero(np.isfinite(at))
    return found, at[found].astype(int)


def _match_keys(frame: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Return the values of the columns as a tuple of text for each row, by its number; None if one is missing."""
    parts = zip(*(frame[column].astype(str).str.strip() for column in columns), strict=True)
    known = frame[list(columns)].notna().all(axis=1).to_numpy()
    return pd.Series(list(parts), dtype=object).where(known, None)


def _shared_genes(pseudobulk: AnnData, bulk: AnnData) -> pd.Index:
    genes = pseudobulk.var_names[pseudobulk.var_names.isin(bulk.var_names)]
    smaller = min(pseudobulk.n_vars, bulk.n_vars)
    if len(genes) < max(1, MIN_SHARED_GENES * smaller):
        raise InputError(
            f"The pseudobulk has genes like {list(pseudobulk.var_names[:3])}, the bulk RNA like "
            f"{list(bulk.var_names[:3])}, and {len(genes) or 'none'} in common, under half of {smaller:,}. Bring "
            "them to the same names: symbols, or Ensembl ids without version."
        )
    if len(genes) < pseudobulk.n_vars:
        logger.info("Bulk RNA has %s of the %s genes.", f"{len(genes):,}", f"{pseudobulk.n_vars:,}")
    return genes
