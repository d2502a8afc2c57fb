"""Pearson's r of every gene over patients, and what it is when bulk profiles are shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepspot._core.keys import key_in
from deepspot._core.logging import track
from deepspot._stats.metrics import pearson, spearman
from deepspot.errors import InputError, MissingKeyError

from .resampling import LEVEL

SIGNIFICANT = 0.05
# Why r of a gene is undefined: it is not, one side does not vary, or holds missing values.
NO, PSEUDOBULK, BULK, MISSING = "no", "pseudobulk", "bulk", "missing"


@dataclass(frozen=True, eq=False, repr=False)
class BulkAgreement:
    """What :func:`deepspot.cohort.bulk_agreement` found.

    In all means over genes, r of a gene whose pseudobulk does not vary counts as 0, and genes whose bulk RNA does not
    vary, or that are missing somewhere, are left out. Both are counted.

    Attributes
    ----------
    table
        One row for each group and gene: `group` (of preservation, or ``"all"``), `gene`, `r` (Pearson), `spearman`,
        `p` (one-sided: the share of permutations with an r as high), `q` (Benjamini-Hochberg within the group), and
        `undefined`: ``"no"``, or why there is no r: the side that does not vary, ``"pseudobulk"`` or ``"bulk"``, or
        ``"missing"``.
    matched
        One row for each profile of a slide that has bulk RNA: `group`, `profile`, `bulk`.
    unmatched
        One row for each that was not matched: `group`, `side`, `name`. Bulk RNA is listed if no group has it. The group
        of slides whose preservation is missing is ``"no <column>"``.
    null
        For each group r (n_permutations, genes), float32, of shuffled bulk profiles, in the order of `table`.
    order
        Genes in the order of the pseudobulk; ranks of genes by the columns of its `var`.
    seed
        Of the permutations.

    Examples
    --------
    See :func:`deepspot.cohort.bulk_agreement`.
    """

    table: pd.DataFrame
    matched: pd.DataFrame
    unmatched: pd.DataFrame
    null: Mapping[str, np.ndarray]
    order: pd.DataFrame
    seed: int

    def __repr__(self) -> str:
        lines = [f"BulkAgreement: {self.table['gene'].nunique():,} genes"]
        for group, row in self.summary().iterrows():
            lines.append(
                f"  {group}: mean r {row['mean']:.3f}, with shuffled bulk profiles {row['null_low']:.3f} to "
                f"{row['null_high']:.3f}; {row['significant']:,.0f} genes with q < {SIGNIFICANT}; "
                f"{row['slides']:.0f} slides, {row['bulk']:.0f} bulk profiles"
            )
        return "\n".join(lines)

    def summary(self) -> pd.DataFrame:
        """Agreement over all genes.

        Returns
        -------
        One row for each group: numbers of `slides` and `bulk` profiles; `genes`, and how many are undefined because of
        the pseudobulk, the bulk RNA, or missing values (`undefined_pseudobulk`, `undefined_bulk`,
        `undefined_missing`); `mean` and `median` r; `null_low`, `null_high`, the 95 % interval of the mean r of
        shuffled bulk profiles, and `p` of the mean (one-sided); `significant`, genes with q < 0.05.
        """
        rows = {}
        for group, genes in self.table.groupby("group", sort=False):
            mine = self.matched[self.matched["group"] == group]
            r, null = self._counted(str(group), genes["gene"])
            means = null.mean(axis=1)
            low, high = np.percentile(means, LEVEL)
            undefined = genes["undefined"].value_counts()
            counts = {"slides": len(mine), "bulk": mine["bulk"].nunique(), "genes": len(genes)}
            counts |= {f"undefined_{why}": int(undefined.get(why, 0)) for why in (PSEUDOBULK, BULK, MISSING)}
            agreement = {"mean": r.mean(), "median": np.median(r), "null_low": low, "null_high": high}
            p = (1 + (means >= r.mean()).sum()) / (1 + len(means))
            rows[group] = counts | agreement | {"p": p, "significant": int((genes["q"] < SIGNIFICANT).sum())}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")

    def curve(
        self, *, order: str | Sequence[str] | None = None, top: Sequence[int] | None = None, statistic: str = "mean"
    ) -> pd.DataFrame:
        """Mean or median r over the top n genes.

        Parameters
        ----------
        order
            Genes from the most variable one on (in the *training* data), or a column of ranks in `var` of the
            pseudobulk, the lowest first, such as scanpy's ``"highly_variable_rank"``. By default the order of the
            pseudobulk: a model that was trained on so many of the most variable genes keeps them in this order.
            Genes that are not named or have no rank are left out.
        top
            Numbers of genes, by default those of the paper, from 100 to 5,000. Above the genes in hand it is all.
        statistic
            ``"mean"`` or ``"median"``.

        Returns
        -------
        Columns `group`, `n`, `r`, and `null_low`, `null_high`, the 95 % interval of the same with shuffled bulk
        profiles.

        Raises
        ------
        KeyError
            If there is no such column, or no gene of the list.
        ValueError
            If the statistic is another.
        """
        from deepspot.models._cross_validation.cross_validate import TOP

        if statistic not in ("mean", "median"):
            raise InputError(f'`statistic` must be "mean" or "median", got {statistic!r}.')
        reduce = np.mean if statistic == "mean" else np.median
        ranked = self._ranked(order)
        rows = []
        for group in self.table["group"].unique():
            r, null = self._counted(group, ranked)
            for n in sorted({min(int(n), len(r)) for n in (TOP if top is None else top)}):
                low, high = np.percentile(reduce(null[:, :n], axis=1), LEVEL)
                rows.append({"group": group, "n": n, "r": reduce(r[:n]), "null_low": low, "null_high": high})
        return pd.DataFrame(rows)

    def _ranked(self, order: str | Sequence[str] | None) -> list[str]:
        if order is None:
            return list(self.order.index)
        if isinstance(order, str):
            ranks = self.order[key_in(order, self.order.columns, "numbers in var of the pseudobulk")]
            return list(ranks.dropna().sort_values(kind="stable").index)
        found = [str(gene) for gene in dict.fromkeys(order) if gene in self.order.index]
        if not found:
            raise MissingKeyError(f"`order` names none of the genes, such as {list(self.order.index[:3])}.")
        return found

    def _counted(self, group: str, genes: Sequence[str] | pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Values of r (g,) and (n_permutations, g) of the genes that count, in their order."""
        mine = self.table[self.table["group"] == group].reset_index(drop=True)
        at = pd.Index(mine["gene"]).get_indexer(list(genes))
        at = at[mine["undefined"].isin([NO, PSEUDOBULK]).to_numpy()[at]]
        return np.nan_to_num(mine["r"].to_numpy()[at]), np.nan_to_num(self.null[group][:, at])


def compare(
    slides: np.ndarray, bulk: np.ndarray, rows: np.ndarray, n_permutations: int, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Agreement of every gene, and r (n_permutations, genes) of shuffled bulk profiles.

    `rows` (slides,) says which bulk profile (profiles, genes) belongs to a slide (slides, genes).
    """
    from scipy.stats import false_discovery_control

    used, rows = np.unique(rows, return_inverse=True)
    bulk = bulk[used]
    known = np.isfinite(slides).all(axis=0) & np.isfinite(bulk).all(axis=0)
    why = np.where(known, NO, MISSING).astype(object)
    for name, values in ((PSEUDOBULK, slides), (BULK, bulk)):
        why[known & (np.ptp(values, axis=0) <= 1e-9 * np.abs(values).max(axis=0))] = name
    defined = why == NO
    table = pd.DataFrame(np.nan, index=range(len(why)), columns=["r", "spearman", "p", "q"])
    null = np.full((n_permutations, len(why)), np.nan, dtype=np.float32)
    if defined.any():
        ours, theirs = slides[:, defined], bulk[:, defined]
        r = pearson(ours, theirs[rows])
        shuffled = null[:, defined] = shuffled_r(ours, theirs, rows, n_permutations, seed)
        # Never 0, as the data themselves are one of the permutations.
        p = (1 + (shuffled >= r.astype(np.float32)).sum(axis=0)) / (1 + n_permutations)
        table.loc[defined] = np.column_stack([r, spearman(ours, theirs[rows]), p, false_discovery_control(p)])
    return table.assign(undefined=why), null


def shuffled_r(slides: np.ndarray, bulk: np.ndarray, rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Pearson's r (n, genes) when bulk profiles are dealt out anew.

    Several slides of one bulk profile stay together, as they resemble one another. Arguments are those of `compare`; r
    is defined for all genes, and each profile belongs to a slide.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(rows, minlength=len(bulk)).astype(np.float64)
    slides = slides - slides.mean(axis=0)
    slides = slides / np.sqrt((slides**2).sum(axis=0))
    together = np.zeros(bulk.shape)
    np.add.at(together, rows, slides)
    bulk = bulk - bulk.mean(axis=0)
    # Where each profile belongs to as many slides, its mean and spread over slides do not depend on the permutation.
    total, squares = counts @ bulk, counts @ bulk**2
    alike, spread = len(set(counts)) == 1, bulk**2
    found = np.empty((n, bulk.shape[1]), dtype=np.float32)
    for number in track(range(n), "Shuffling patients", total=n):
        order = rng.permutation(len(bulk))
        if not alike:
            back = counts[np.argsort(order)]
            total, squares = back @ bulk, back @ spread
        product = np.einsum("pg,pg->g", together, bulk[order])
        found[number] = product / np.sqrt(np.maximum(squares - total**2 / len(rows), 1e-300))
    return found
