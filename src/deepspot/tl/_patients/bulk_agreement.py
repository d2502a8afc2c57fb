from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_positive
from deepspot._stats.log_scale import look_like_counts
from deepspot._stats.metrics import pearson, spearman

from . import match as _match
from .agreement import NO, BulkAgreement, p_values, shuffled_r, undefined

if TYPE_CHECKING:
    from anndata import AnnData

FEWEST = 5


def bulk_agreement(
    pseudobulk: AnnData,
    bulk: AnnData | pd.DataFrame,
    *,
    match: str | Sequence[str] | Mapping[str, str | Sequence[str]],
    preservation: str = "preservation",
    n_permutations: int = 1000,
    seed: int | None = None,
) -> BulkAgreement:
    """Compare profiles of slides with bulk RNA of the same patients, gene by gene.

    A gene's r is over patients, so that it does not ask whether a gene is high or low in general. Frozen sections come
    from the very piece of tissue that was sequenced, and are matched by a sample; FFPE slides come from another piece,
    and are matched by patient and type of tumour. Columns are named for each, and nothing is guessed:
    ``match={"FF": "sample", "FFPE": ["patient", "tumour_type"]}``.

    What chance does is found by shuffling the bulk profiles: for every gene, and for the mean over genes. As a whole
    profile is dealt out, genes that go together do so in the shuffled data too. Several slides with one bulk profile
    stay together. Profiles are shuffled, and not patients: where several pieces of one patient were sequenced, each of
    their profiles is dealt out by itself, although they resemble one another. The shuffled range is then too narrow
    and p too small; keep one profile of each patient where that matters.

    Parameters
    ----------
    pseudobulk
        Profiles of slides, of :func:`deepspot.tl.pseudobulk` or :func:`deepspot.tl.cohort`.
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
    r of all genes with p and q, the mean over genes beside that of shuffled profiles, and what was not matched.
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
    >>> found = ds.tl.bulk_agreement(profiles, bulk, match="patient", n_permutations=100)
    >>> bool(found.summary().loc["all", "mean"] > 0.6)
    True
    """
    check_positive(n_permutations, "n_permutations")
    groups = _match.groups(pseudobulk.obs, match, preservation)
    bulk = _match.as_bulk(bulk, [column for columns in groups.values() for column in columns])
    genes = _shared(pseudobulk, bulk)
    seed = settings.seed if seed is None else seed
    slides, bulks = _values(pseudobulk, genes, "the pseudobulk"), _values(bulk, genes, "the bulk RNA")
    tables, matched, unmatched, null = [], [], [], {}
    seen = np.zeros(bulk.n_obs, dtype=bool)
    pairs = {}
    if isinstance(match, Mapping):
        unknown = pseudobulk.obs_names[pseudobulk.obs[preservation].isna()]
        unmatched.append(pd.DataFrame({"group": f"no {preservation}", "side": "pseudobulk", "name": unknown}))
    for group, columns in groups.items():
        ours = np.arange(pseudobulk.n_obs)
        if group != _match.ALL or isinstance(match, Mapping):
            ours = np.flatnonzero((pseudobulk.obs[preservation].astype(str) == group).to_numpy())
        rows, theirs = _match.pairs(pseudobulk.obs.iloc[ours], bulk.obs, columns)
        _check_enough(group, columns, pseudobulk.obs.iloc[ours], bulk.obs, theirs)
        pairs[group] = ours[rows], theirs
        seen[theirs] = True
        names = pseudobulk.obs_names[ours]
        matched.append(pd.DataFrame({"group": group, "profile": names[rows], "bulk": bulk.obs_names[theirs]}))
        unmatched.append(pd.DataFrame({"group": group, "side": "pseudobulk", "name": names.delete(rows)}))
    unmatched.append(pd.DataFrame({"group": _match.ALL, "side": "bulk", "name": bulk.obs_names[~seen]}))
    for group, (ours, theirs) in pairs.items():
        table, null[group] = _compare(slides[ours], bulks, theirs, n_permutations, seed)
        tables.append(table.assign(group=group, gene=genes)[["group", "gene", *table.columns]])
    result = BulkAgreement(
        pd.concat(tables, ignore_index=True), pd.concat(matched, ignore_index=True),
        pd.concat(unmatched, ignore_index=True), null, pseudobulk.var.loc[genes].select_dtypes("number"), seed,
    )  # fmt: skip
    logger.info("%r\nWithout a match: %s.", result, _told(result.unmatched))
    return result


def _compare(
    slides: np.ndarray, bulk: np.ndarray, rows: np.ndarray, n_permutations: int, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Agreement of every gene, and r (n_permutations, genes) of shuffled profiles."""
    from scipy.stats import false_discovery_control

    used, rows = np.unique(rows, return_inverse=True)
    bulk = bulk[used]
    why = undefined(slides, bulk[rows])
    defined = why == NO
    table = pd.DataFrame(np.nan, index=range(len(why)), columns=["r", "spearman", "p", "q"])
    null = np.full((n_permutations, len(why)), np.nan, dtype=np.float32)
    if defined.any():
        ours, theirs = slides[:, defined], bulk[:, defined]
        r = pearson(ours, theirs[rows])
        null[:, defined] = shuffled_r(ours, theirs, rows, n_permutations, seed)
        p = p_values(r, null[:, defined])
        found = np.column_stack([r, spearman(ours, theirs[rows]), p, false_discovery_control(p)])
        table.loc[defined] = found
    table["undefined"] = why
    return table, null


def _shared(pseudobulk: AnnData, bulk: AnnData) -> pd.Index:
    for names, what in ((pseudobulk.var_names, "the pseudobulk"), (bulk.var_names, "the bulk RNA")):
        if not names.is_unique:
            raise ValueError(
                f"Gene names of {what} are not unique: {list(names[names.duplicated()][:3])}. Keep one each."
            )
    genes = pseudobulk.var_names[pseudobulk.var_names.isin(bulk.var_names)]
    if not len(genes):
        raise ValueError(
            f"The pseudobulk has genes like {list(pseudobulk.var_names[:3])}, the bulk RNA like "
            f"{list(bulk.var_names[:3])}, and none in common. Bring them to the same names."
        )
    if len(genes) < pseudobulk.n_vars:
        logger.info("Bulk RNA has %s of the %s genes.", f"{len(genes):,}", f"{pseudobulk.n_vars:,}")
    return genes


def _values(table: AnnData, genes: pd.Index, what: str) -> np.ndarray:
    X = table.X[:, table.var_names.get_indexer(genes)]
    X = np.asarray(X.toarray() if issparse(X) else X, dtype=np.float64)
    if look_like_counts(X):
        raise ValueError(
            f"X of {what} holds whole numbers, so these seem to be raw counts. Pass values on a log scale: "
            "`np.log2(tpm + 1)`, for instance."
        )
    return X


def _check_enough(
    group: str, columns: Sequence[str], slides: pd.DataFrame, bulk: pd.DataFrame, theirs: np.ndarray
) -> None:
    found = len(np.unique(theirs))
    if found < FEWEST:
        examples = {"pseudobulk": slides, "bulk RNA": bulk}
        named = {side: obs[list(columns)].astype(str).head(2).to_dict("list") for side, obs in examples.items()}
        raise ValueError(
            f"Of {len(slides)} profiles of {group!r} and {len(bulk)} of bulk RNA, {found} of the latter are matched by "
            f"{list(columns)}; {FEWEST} are needed. They look like {named}: bring them to the same text."
        )


def _told(unmatched: pd.DataFrame) -> str:
    counts = unmatched.groupby(["side", "group"], sort=False).size()
    parts = [
        f"{n} of {side} ({group})" if side == "pseudobulk" else f"{n} of bulk RNA"
        for (side, group), n in counts.items()
    ]
    return ", ".join(parts) or "none"
