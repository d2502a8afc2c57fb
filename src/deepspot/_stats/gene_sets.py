"""Agreement of the scores of gene sets, compared with random sets of the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .metrics import pearson, varies

N_RANDOM = 200


def agreement_of_sets(
    predicted: np.ndarray, measured: np.ndarray, sets: Mapping[str, Sequence[int]], seed: int = 0
) -> pd.DataFrame:
    """Return the agreement of the scores of gene sets, by their columns, in two (n, genes) matrices.

    The score of a spot is the mean of the standardized genes of the set, on each side for itself. A constant gene
    counts as 0. Genes that the measurement lacks are left out.

    Returns
    -------
    One row for each set, in order: `gene_set`, `n_genes`, `r` between the scores of both sides, `r_random`, the mean r
    of 200 random sets of the same number of genes, and `p`, the share of these with at least the same r. A set of all
    genes has no other of its size.
    """
    known = np.flatnonzero(np.isfinite(measured).all(axis=0) & varies(measured))
    a, b = (_standardized(values[:, known]) for values in (predicted, measured))
    place = {int(gene): number for number, gene in enumerate(known)}
    rng = np.random.default_rng(seed)
    random: dict[int, np.ndarray] = {}
    rows = []
    for name, genes in sets.items():
        chosen = sorted({place[gene] for gene in genes if gene in place})
        n = len(chosen)
        row = {"gene_set": name, "n_genes": n, "r": np.nan, "r_random": np.nan, "p": np.nan}
        if n:
            r = _r_of_means(a, b, [chosen])[0]
            if n not in random:
                random[n] = _r_of_means(a, b, [rng.choice(len(known), n, replace=False) for _ in range(N_RANDOM)])
            row |= {"r": r, "r_random": random[n].mean(), "p": ((random[n] >= r).sum() + 1) / (N_RANDOM + 1)}
        rows.append(row)
    return pd.DataFrame(rows, columns=["gene_set", "n_genes", "r", "r_random", "p"])


def _r_of_means(a: np.ndarray, b: np.ndarray, sets: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Return r (sets,) between the means of the same genes in both matrices; 0 if a mean is constant."""
    members = np.zeros((a.shape[1], len(sets)))
    for column, genes in enumerate(sets):
        members[genes, column] = 1 / len(genes)
    return np.nan_to_num(pearson(a @ members, b @ members))


def _standardized(values: np.ndarray) -> np.ndarray:
    deviations = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    std = deviations.std(axis=0)
    return np.divide(deviations, std, out=np.zeros_like(deviations), where=std > 1e-6)
