"""What profiles tell of patients: survival from real bulk RNA; classes and agreement with it where they are planted.

    DEEPSPOT_DATA=../shared/data python benchmarks/patients.py [REPEATS]

Survival: all genes of both tables, training on 75, 100 and 125 patients, REPEATS random splits of each (by default
300; the paper has 1,000), each beside permuted outcomes. Then what the published notebook's coding would have reported,
by which those who lived count as dead. Classification and agreement:
profiles with signals of known strength, and with none. Writes benchmarks/results/patients.md and three figures.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from anndata import AnnData

import deepspot as ds

mpl.use("Agg")
SEED, ENDING = 0, "_rnaseq"
COLUMNS = {"time": "survival_months", "status": "censorship", "patient": "case_id"}
N, GENES, FAMILIES = 150, 1500, 25
WRONG_REPEATS, CLASS_REPEATS = 50, 30
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    ds.settings.progress = False
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    parts = [*survival(repeats), "", *classification(), "", *agreement()]
    (RESULTS / "patients.md").write_text("\n".join(parts) + "\n")


def tcga(name: str) -> AnnData:
    """Bulk RNA of a table, one row for each patient: all slides of a patient have the same."""
    path = Path(os.environ["DEEPSPOT_DATA"]) / "tcga" / f"tcga_{name}_all_clean.csv.zip"
    table = pd.read_csv(path, low_memory=False).drop_duplicates("case_id").set_index("slide_id")
    genes = [column for column in table if column.endswith(ENDING)]
    var = pd.DataFrame(index=[gene.removesuffix(ENDING) for gene in genes])
    return AnnData(table[genes].to_numpy(), obs=table[list(COLUMNS.values())], var=var)


def survival(repeats: int) -> list[str]:
    tables = {"KIRC, bulk RNA": tcga("kirc"), "SKCM, bulk RNA": tcga("skcm")}
    start = time.perf_counter()
    right = {name: ds.tl.survival(table, event=0, repeats=repeats, **COLUMNS) for name, table in tables.items()}
    seconds = (time.perf_counter() - start) / (2 * 3 * repeats)
    wrong = {name: ds.tl.survival(table, event=1, repeats=WRONG_REPEATS, **COLUMNS) for name, table in tables.items()}
    ds.pl.survival(right).figure.savefig(RESULTS / "patients_survival.png", dpi=110)
    lines = [
        f"Survival from bulk RNA of real patients: elastic-net Cox, {repeats} random splits of each size, "
        f"{seconds:.2f} s for a split with its permuted control. Concordance: mean ± standard error over splits (too "
        "small, as splits share patients; the corrected one in brackets), range of 95 % of them; above: share of "
        "splits that beat their control.",
        "",
        "| patients (died) | trained on | concordance | 95 % of splits | outcomes permuted | 95 % of splits | above |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in right.items():
        who = f"{name}: {len(found.patients)} ({found.patients['died'].sum()})"
        lines += [
            f"| {who} | {n} | {row['mean']:.3f} ± {row['se']:.3f} ({row['se_corrected']:.3f}) | "
            f"{row['low']:.2f} to {row['high']:.2f} | {row['permuted']:.3f} ± {row['permuted_se']:.3f} | "
            f"{row['permuted_low']:.2f} to {row['permuted_high']:.2f} | {row['above']:.0%} |"
            for n, row in found.summary().iterrows()
        ]
    lines += [
        "",
        "The same tables with the event coded the wrong way round (`event=1`, those who were censored; "
        f"{WRONG_REPEATS} splits). Nothing fails, and the numbers look like results; what is ranked is when patients "
        "were last seen alive.",
        "",
        "| patients (counted as dead) | trained on | concordance | outcomes permuted |",
        "|---|---|---|---|",
    ]
    for name, found in wrong.items():
        who = f"{name}: {len(found.patients)} ({found.patients['died'].sum()})"
        lines += [
            f"| {who} | {n} | {row['mean']:.3f} ± {row['se']:.3f} | {row['permuted']:.3f} ± {row['permuted_se']:.3f} |"
            for n, row in found.summary().iterrows()
        ]
    return lines


def profiles(rng: np.random.Generator, n: int = N) -> np.ndarray:
    """Profiles whose genes go together in families, as those of tissue do."""
    families = rng.standard_normal((n, FAMILIES)) @ rng.standard_normal((FAMILIES, GENES))
    return families / np.sqrt(FAMILIES) + rng.standard_normal((n, GENES))


def classification() -> list[str]:
    lines = [
        f"Classes planted in {N} profiles of {GENES:,} genes: 60 genes of one class are higher by so many standard "
        f"deviations; {CLASS_REPEATS} splits of each size. Macro F1: mean ± standard error over splits.",
        "",
        "| classes | higher by | trained on | macro F1 | labels permuted |",
        "|---|---|---|---|---|",
    ]
    drawn = {}
    for shares in ((0.5, 0.5), (0.6, 0.25, 0.15)):
        for effect in (0.0, 0.5, 1.0, 2.0):
            rng = np.random.default_rng(SEED)
            label = np.repeat([f"type {k}" for k in range(len(shares))], (np.array(shares) * N).round().astype(int))
            X = profiles(rng)
            for number, kind in enumerate(np.unique(label)[1:]):
                genes = rng.permutation(GENES)[:60] if number == 0 else np.arange(60)
                X[np.ix_(label == kind, genes)] += effect * X.std()
            obs = pd.DataFrame({"type": label, "patient": [str(n) for n in range(N)]}, index=[str(n) for n in range(N)])
            found = ds.tl.classify(
                AnnData(X, obs=obs), label="type", patient="patient", repeats=CLASS_REPEATS, seed=SEED
            )  # fmt: skip
            drawn[f"{len(shares)} classes, higher by {effect:g} SD"] = found
            lines += [
                f"| {len(shares)} ({', '.join(f'{share:.0%}' for share in shares)}) | {effect:g} SD | {n} | "
                f"{row['mean']:.3f} ± {row['se']:.3f} | {row['permuted']:.3f} ± {row['permuted_se']:.3f} |"
                for n, row in found.summary().iterrows()
            ]
    some = {name: found for name, found in drawn.items() if name.startswith("2") and "0.5" not in name}
    ds.pl.classification(some).figure.savefig(RESULTS / "patients_classification.png", dpi=110)
    return lines


def agreement() -> list[str]:
    lines = [
        f"Agreement planted in pseudobulk of {N} frozen sections and 100 FFPE slides of 60 patients, and their bulk "
        f"RNA: r is 0.8 in the first of {GENES:,} genes and falls to 0 at a third; the other genes are unrelated. "
        "Genes go together in families in both. 1,000 permutations.",
        "",
        "| planted | seed | slides | mean r | mean r planted | shuffled patients | p of the mean | genes with "
        "q < 0.05 | false among them | unrelated genes with p < 0.05 | mean error of r |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for planted in (True, False):
        for seed in range(3):
            slides, bulk, r = planted_agreement(seed, planted)
            match = {"FF": "sample", "FFPE": ["patient", "type"]}
            found = ds.tl.bulk_agreement(slides, bulk, match=match, seed=seed)
            if planted and seed == 0:
                top = (100, 150, 200, 250, 300, 400, 500, 1000, 1500)
                ds.pl.bulk_agreement(found, top=top).figure.savefig(RESULTS / "patients_agreement.png", dpi=110)
            for group, row in found.summary().iterrows():
                genes = found.table[found.table["group"] == group]
                called, none = (genes["q"] < 0.05).to_numpy(), r == 0
                by_chance = (genes["p"].to_numpy()[none] < 0.05).mean()
                false = f"{(called & none).sum() / called.sum():.1%}" if called.any() else "none"
                lines.append(
                    f"| {'yes' if planted else 'no'} | {seed} | {row['slides']:.0f} {group} | {row['mean']:.3f} | "
                    f"{r.mean():.3f} | {row['null_low']:.3f} to {row['null_high']:.3f} | {row['p']:.3f} | "
                    f"{called.sum()} | {false} | {by_chance:.1%} | {(genes['r'] - r).mean():+.3f} |"
                )
    return lines


def planted_agreement(seed: int, planted: bool) -> tuple[AnnData, AnnData, np.ndarray]:
    rng = np.random.default_rng(seed)
    r = np.clip(np.linspace(0.8, -1.6, GENES), 0, None) * planted
    genes = pd.DataFrame(index=[f"G{number}" for number in range(GENES)])
    bulk = standard(profiles(rng))
    of = np.concatenate([np.arange(N), np.arange(60), np.arange(40)])
    X = r * bulk[of] + np.sqrt(1 - r**2) * standard(profiles(rng, len(of)))
    patient = np.array([f"P{number}" for number in range(N)])
    obs = pd.DataFrame(
        {"patient": patient, "sample": [f"{name}-A" for name in patient], "type": "primary"}, index=patient
    )
    kinds = np.repeat(["FF", "FFPE"], [N, 100])
    slides = obs.iloc[of].assign(preservation=kinds).set_axis([f"slide {number}" for number in range(len(of))])
    return AnnData(X, obs=slides, var=genes), AnnData(bulk, obs=obs, var=genes.copy()), r


def standard(X: np.ndarray) -> np.ndarray:
    return (X - X.mean(axis=0)) / X.std(axis=0)


if __name__ == "__main__":
    main()
