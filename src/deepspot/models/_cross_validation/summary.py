"""Curves, their areas and comparisons, from the tidy table of a cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from deepspot.errors import InputError

from .scores import UNDEFINED, area, clip, curve, filled, mean_known


def curves(table: pd.DataFrame, top: Sequence[int]) -> pd.DataFrame:
    """Mean r over the top n genes, for every model, n and fold: over genes, then slides, then patients of a fold."""
    numbers = clip(top, int(table.groupby("fold", observed=True)["rank"].max().min()))
    by_slide: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
    for (model, fold, patient, _), part in _slides(table):
        values = curve(_filled(part), numbers)
        by_slide.setdefault((model, fold), {}).setdefault(patient, []).append(values)
    parts = [
        pd.DataFrame({"model": model, "n": numbers, "fold": fold, "r": mean_known([*map(mean_known, found.values())])})
        for (model, fold), found in by_slide.items()
    ]
    return pd.concat(parts, ignore_index=True)


def areas(table: pd.DataFrame, top: Sequence[int]) -> pd.DataFrame:
    """Area under the curve: models in rows, folds in columns. Folds where no measurement varies are left out."""
    found = {
        key: area(part["n"].to_numpy(), part["r"].to_numpy())
        for key, part in curves(table, top).groupby(["model", "fold"], sort=False)
    }
    models, folds = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    wide = pd.DataFrame([[found[model, fold] for fold in folds] for model in models], index=models, columns=folds)
    known = wide.rename_axis(index="model", columns="fold").dropna(axis=1)
    if known.empty:
        raise InputError("No gene varies on any held-out slide, so there is nothing to agree with. Check the counts.")
    return known


def summary(table: pd.DataFrame, top: Sequence[int], n_bootstrap: int, seed: int) -> pd.DataFrame:
    """One row for each model: area, its uncertainty over folds, mean rank, and what was undefined."""
    values = areas(table, top)
    null = is_null(table)[values.index]
    samples = draws(values.shape[1], n_bootstrap, seed)
    ranks = values[~null.to_numpy()].rank(ascending=False).mean(axis=1)
    lost = table.groupby(["model", "undefined"], observed=False).size().unstack(fill_value=0)
    rows = []
    for model, known in values.iterrows():
        drawn = known.to_numpy()[samples]
        row = {"null": null[model]}
        for name, statistic in (("mean", np.mean), ("median", np.median)):
            row[name] = statistic(known)
            row |= dict(
                zip((f"{name}_se", f"{name}_low", f"{name}_high"), spread(statistic(drawn, axis=1)), strict=True)
            )
        row["mean_rank"] = ranks.get(model, np.nan)
        row |= {f"undefined_{side}": int(lost.loc[model, side]) for side in UNDEFINED[1:]}
        rows.append(row | {"folds": values.shape[1]})
    return pd.DataFrame(rows, index=values.index)


def compare(table: pd.DataFrame, top: Sequence[int], baseline: str, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Difference of every model that is not null to a baseline, paired by fold."""
    from statsmodels.stats.multitest import multipletests

    values = areas(table, top)
    null = is_null(table)
    others = [model for model in values.index if model != baseline and not null[model]]
    samples = draws(values.shape[1], n_bootstrap, seed)
    ranks = values.loc[[model for model in values.index if not null[model] or model == baseline]]
    mean_rank = ranks.rank(ascending=False).mean(axis=1)
    rows = []
    for model in others:
        difference = (values.loc[model] - values.loc[baseline]).to_numpy()
        drawn = difference[samples].mean(axis=1)
        se, low, high = spread(drawn)
        rows.append(
            {
                "difference": difference.mean(),
                "se": se,
                "low": low,
                "high": high,
                "won": int((difference > 0).sum()),
                "folds": len(difference),
                "p": p_value(drawn, len(difference)),
                "mean_rank": mean_rank[model],
            }
        )
    columns = ["difference", "se", "low", "high", "won", "folds", "p", "mean_rank"]
    found = pd.DataFrame(rows, index=pd.Index(others, name="model"), columns=columns)
    adjusted = multipletests(found["p"], method="holm")[1] if others else []
    found.insert(columns.index("p") + 1, "p_adjusted", adjusted)
    return found


def per_gene(table: pd.DataFrame, model: str, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Mean r of every gene over folds, with its interval and the number of folds in which it is known."""
    mine = table[table["model"] == model]
    values = mine.assign(value=_filled(mine))
    wide = values.groupby(["fold", "gene"], observed=True, sort=False)["value"].mean().unstack("gene")
    r = wide.to_numpy(dtype=float)
    low, high = gene_intervals(r, n_bootstrap, seed)
    known = np.isfinite(r).sum(axis=0)
    genes = pd.Index(np.asarray(wide.columns, dtype=object), name="gene")
    return pd.DataFrame({"r": mean_known(list(r)), "low": low, "high": high, "n": known}, index=genes)


def note(n_folds: int, leave_out: str) -> str:
    """What a reader has to know before believing an interval; empty if nothing."""
    parts = []
    if leave_out == "slide":
        parts.append(
            "Slides were held out, not patients: this shows that the code learns, and nothing about other patients."
        )
    if n_folds < ENOUGH:
        parts.append(
            f"There are only {n_folds} folds: an interval or a p-value over so few means little. At least {ENOUGH} "
            "patients are needed, better 6 or more."
        )
    return " ".join(parts)


def is_null(table: pd.DataFrame) -> pd.Series:
    """Which models are null models."""
    first = table.drop_duplicates("model")
    return pd.Series(first["null"].to_numpy(dtype=bool), index=np.asarray(first["model"], dtype=object))


def _slides(table: pd.DataFrame) -> Iterable[tuple[tuple[str, str, str, str], pd.DataFrame]]:
    ordered = table.sort_values("rank", kind="stable")
    return ordered.groupby(["model", "fold", "patient", "slide"], observed=True, sort=False)


def _filled(part: pd.DataFrame) -> np.ndarray:
    codes = pd.Categorical(part["undefined"], categories=list(UNDEFINED)).codes
    return filled(part["r"].to_numpy(dtype=float), np.asarray(codes))


ENOUGH = 3
LEVEL = (2.5, 97.5)
# Genes times resamples held at once.
CHUNK = 5_000_000


def draws(n: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Bootstrap samples (n_bootstrap, n) of n folds; the same for all models, so that they are paired."""
    return np.random.default_rng(seed).integers(n, size=(n_bootstrap, n))


def spread(samples: np.ndarray) -> tuple[float, float, float]:
    """Standard error and 95 % interval of a statistic from its bootstrap samples."""
    low, high = np.percentile(samples, LEVEL)
    return float(samples.std(ddof=1)), float(low), float(high)


def p_value(differences: np.ndarray, n: int) -> float:
    """Two-sided p that a difference is 0, from its bootstrap samples over n folds.

    A bootstrap of a few folds that agree in sign never crosses 0, however few they are. So p is not below 2^(1 - n),
    the smallest that a test by flipping the signs of n differences can reach.
    """
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(np.clip(2 * (beyond + 1) / (len(differences) + 1), 2.0 ** (1 - n), 1))


def gene_intervals(r: np.ndarray, n_bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval (genes,) and (genes,) of the mean of r (patients, genes) over patients; NaN where it is known once.

    Patients are drawn, and a mean is over those in which the gene is known.
    """
    n, n_genes = r.shape
    known = np.isfinite(r)
    filled = np.where(known, r, 0.0)
    samples = draws(n, n_bootstrap, seed)
    weights = np.stack([(samples == patient).sum(axis=1) for patient in range(n)], axis=1).astype(float)
    low, high = np.full(n_genes, np.nan), np.full(n_genes, np.nan)
    several = np.flatnonzero(known.sum(axis=0) > 1)
    for genes in np.array_split(several, max(1, -(-len(several) * n_bootstrap // CHUNK))):
        count = known[:, genes].T @ weights.T
        total = filled[:, genes].T @ weights.T
        means = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
        # A gene that not all patients know is missing from some samples, and `nanpercentile` is slow.
        always = known[:, genes].all(axis=0)
        for some, percentile in ((always, np.percentile), (~always, np.nanpercentile)):
            if some.any():
                low[genes[some]], high[genes[some]] = percentile(means[some], LEVEL, axis=1, overwrite_input=True)
    return low, high
