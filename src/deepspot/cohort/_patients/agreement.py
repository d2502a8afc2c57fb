"""Pearson r of each gene over patients, and its null distribution over shuffled bulk profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepspot._core.keys import key_in
from deepspot._core.logging import count_of, track
from deepspot._stats.metrics import pearson, spearman
from deepspot.errors import InputError, MissingKeyError

SIGNIFICANT = 0.05
PERCENTILES = (2.5, 97.5)
# Values of the column `undefined`: r is defined, or why it is not.
NO, PSEUDOBULK, BULK, MISSING = "no", "pseudobulk", "bulk", "missing"


@dataclass(frozen=True, eq=False, repr=False)
class BulkAgreement:
    """Result of :func:`deepspot.cohort.bulk_agreement`.

    In all means over genes, r is 0 for a gene that is constant in the pseudobulk. Genes that are constant in the bulk
    RNA or have missing values are excluded. Both are counted.

    Attributes
    ----------
    table
        One row for each group and gene: `group` (of preservation, or ``"all"``), `gene`, `r` (Pearson), `spearman`,
        `p` (one-sided: the share of permutations with an r as high), `q` (Benjamini-Hochberg within the group), and
        `undefined`: ``"no"``, or why there is no r: constant in the ``"pseudobulk"`` or in the ``"bulk"``, or
        ``"missing"`` values.
    matched
        One row for each slide with bulk RNA: `group`, `profile`, `bulk`.
    unmatched
        One row for each profile without a match: `group`, `side`, `name`. Bulk RNA is listed if no group uses it. The
        group of slides without a preservation is ``"no <column>"``.
    null
        For each group, r (n_permutations, genes) with shuffled bulk profiles, float32, genes in the order of `table`.
    order
        Genes in the order of the pseudobulk, with the numeric columns of its `var`, such as ranks of genes.
    seed
        Seed of the permutations.

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
                f"{count_of(int(row['slides']), 'slide')}, {count_of(int(row['bulk']), 'bulk profile')}"
            )
        return "\n".join(lines)

    def summary(self) -> pd.DataFrame:
        """Summarize the agreement over all genes.

        Returns
        -------
        One row for each group: numbers of `slides` and `bulk` profiles; `genes`, and how many are undefined because of
        the pseudobulk, the bulk RNA, or missing values (`undefined_pseudobulk`, `undefined_bulk`,
        `undefined_missing`); `mean` and `median` r; `null_low`, `null_high`, the 95 % interval of the mean r with
        shuffled bulk profiles, and `p` of the mean (one-sided); `significant`, the number of genes with q < 0.05.
        """
        rows = {}
        for group, genes in self.table.groupby("group", sort=False):
            matched = self.matched[self.matched["group"] == group]
            r, null = self._r_of(str(group), genes["gene"])
            means = null.mean(axis=1)
            low, high = np.percentile(means, PERCENTILES)
            undefined = genes["undefined"].value_counts()
            rows[group] = {
                "slides": len(matched),
                "bulk": matched["bulk"].nunique(),
                "genes": len(genes),
                **{f"undefined_{why}": int(undefined.get(why, 0)) for why in (PSEUDOBULK, BULK, MISSING)},
                "mean": r.mean(),
                "median": np.median(r),
                "null_low": low,
                "null_high": high,
                "p": (1 + (means >= r.mean()).sum()) / (1 + len(means)),
                "significant": int((genes["q"] < SIGNIFICANT).sum()),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")

    def curve(
        self, *, order: str | Sequence[str] | None = None, top: Sequence[int] | None = None, statistic: str = "mean"
    ) -> pd.DataFrame:
        """Compute the mean or median r over the top n genes.

        Parameters
        ----------
        order
            Genes in descending order of variability (in the *training* data), or a column of ranks in `var` of the
            pseudobulk, lowest first, such as scanpy's ``"highly_variable_rank"``. Other genes are excluded. The default
            is the order of the pseudobulk, which a model keeps from the most variable to the least variable gene.
        top
            Numbers of genes, by default those of the paper, from 100 to 5,000. Larger numbers mean all genes.
        statistic
            ``"mean"`` or ``"median"``.

        Returns
        -------
        Columns `group`, `n`, `r`, and `null_low`, `null_high`, the 95 % interval with shuffled bulk profiles.

        Raises
        ------
        KeyError
            If the column does not exist, or none of the listed genes.
        ValueError
            If the statistic is unknown.
        """
        from deepspot.models._cross_validation.cross_validate import TOP

        if statistic not in ("mean", "median"):
            raise InputError(f'`statistic` must be "mean" or "median", got {statistic!r}.')
        reduce = np.mean if statistic == "mean" else np.median
        genes = self._ranked(order)
        rows = []
        for group in self.table["group"].unique():
            r, null = self._r_of(group, genes)
            for n in sorted({min(int(n), len(r)) for n in (TOP if top is None else top)}):
                low, high = np.percentile(reduce(null[:, :n], axis=1), PERCENTILES)
                rows.append({"group": group, "n": n, "r": reduce(r[:n]), "null_low": low, "null_high": high})
        return pd.DataFrame(rows)

    def _ranked(self, order: str | Sequence[str] | None) -> list[str]:
        if order is None:
            return list(self.order.index)
        if isinstance(order, str):
            ranks = self.order[key_in(order, self.order.columns, "numbers in var of the pseudobulk")]
            return list(ranks.dropna().sort_values(kind="stable").index)
        known = [str(gene) for gene in dict.fromkeys(order) if gene in self.order.index]
        if not known:
            raise MissingKeyError(f"`order` names none of the genes, such as {list(self.order.index[:3])}.")
        return known

    def _r_of(self, group: str, genes: Sequence[str] | pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Return r (g,) and its null (n_permutations, g) of the genes that count, in the order of `genes`."""
        table = self.table[self.table["group"] == group].reset_index(drop=True)
        rows = pd.Index(table["gene"]).get_indexer(list(genes))
        rows = rows[table["undefined"].isin([NO, PSEUDOBULK]).to_numpy()[rows]]
        return np.nan_to_num(table["r"].to_numpy()[rows]), np.nan_to_num(self.null[group][:, rows])


def compare(
    slides: np.ndarray, bulk: np.ndarray, rows: np.ndarray, n_permutations: int, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the agreement of each gene, and r (n_permutations, genes) with shuffled bulk profiles.

    `rows` (slides,) is the bulk profile (profiles, genes) of each slide (slides, genes).
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
        a, b = slides[:, defined], bulk[:, defined]
        r = pearson(a, b[rows])
        shuffled = null[:, defined] = shuffled_r(a, b, rows, n_permutations, seed)
        # Never 0: the data themselves count as one of the permutations.
        p = (1 + (shuffled >= r.astype(np.float32)).sum(axis=0)) / (1 + n_permutations)
        table.loc[defined] = np.column_stack([r, spearman(a, b[rows]), p, false_discovery_control(p)])
    return table.assign(undefined=why), null


def shuffled_r(slides: np.ndarray, bulk: np.ndarray, rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return Pearson r (n, genes) with bulk profiles permuted; slides with the same bulk profile stay together.

    The arguments are those of `compare`. r must be defined for all genes, and each profile must belong to a slide.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(rows, minlength=len(bulk)).astype(np.float64)
    slides = slides - slides.mean(axis=0)
    slides = slides / np.sqrt((slides**2).sum(axis=0))
    sums = np.zeros(bulk.shape)
    np.add.at(sums, rows, slides)
    bulk = bulk - bulk.mean(axis=0)
    squares = bulk**2
    # Constant over permutations if each profile has the same number of slides.
    first, second = counts @ bulk, counts @ squares
    balanced = len(set(counts)) == 1
    r = np.empty((n, bulk.shape[1]), dtype=np.float32)
    for number in track(range(n), "Shuffling bulk profiles", total=n):
        order = rng.permutation(len(bulk))
        if not balanced:
            weights = counts[np.argsort(order)]
            first, second = weights @ bulk, weights @ squares
        product = np.einsum("pg,pg->g", sums, bulk[order])
        r[number] = product / np.sqrt(np.maximum(second - first**2 / len(rows), 1e-300))
    return r
