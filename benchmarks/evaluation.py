"""All measures of agreement on sections that the model did not learn from, for the page "Evaluation".

    DEEPSPOT_DATA=../shared/data python benchmarks/evaluation.py

A model of C3 and C4 predicts C5, another section of the same patient, and B4, a section of another patient. It writes
benchmarks/results/evaluation.md, and evaluation.png with the figure of B4. Gene sets are the Hallmark collection.
"""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
from _sections import load

import deepspot as ds

TRAINING, TESTED = ["C3", "C4"], {"C5": "same patient", "B4": "other patient"}
GENE_SETS = Path(os.environ["DEEPSPOT_DATA"]) / "genesets" / "h.all.v7.0.symbols.gmt"
ROWS = {
    "r": "r",
    "r_depth": "r of the depth of spots alone",
    "r_beyond_axis": "r beyond the first axis",
    "r_of_ceiling": "r over its ceiling",
    "spearman": "Spearman's r",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "slope": "slope of measured on predicted",
    "ssim": "structural similarity",
    "ssim_of_mean": "structural similarity of the mean of the gene",
    "lee": "Lee's L",
    "moran_predicted": "Moran's I, predicted",
    "moran_measured": "Moran's I, measured",
    "gene_agreement": "agreement of gene-gene correlations",
    "r_all": "r over all pairs of spot and gene",
    "r_all_means": "its part of gene means",
    "r_all_pattern": "its part of the spatial pattern",
    "r_all_of_means": "r over all pairs of the measured gene means",
    "ari": "adjusted Rand index of domains",
    "ari_shifted": "adjusted Rand index of shifted maps",
    "ari_p": "p of the domains",
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    mpl.use("Agg")
    ds.settings.progress = False
    slides = load([*TRAINING, *TESTED])
    tested = {name: slides.pop(name) for name in TESTED}
    model = ds.models.train(slides, patient_key="patient", genes=1000, min_detected=0.1, network={"members": 1}, seed=0)
    for sdata in tested.values():
        ds.tl.predict(sdata, model)
        ds.tl.evaluate(sdata, gene_sets=GENE_SETS, domains=True, seed=0)
    tables = {name: sdata.tables["deepspot_spots"] for name, sdata in tested.items()}
    found = {name: table.uns["deepspot"]["agreement"] for name, table in tables.items()}
    sets = {name: table.uns["deepspot_gene_sets"].dropna() for name, table in tables.items()}
    lines = [f"| | {' | '.join(f'{name} ({TESTED[name]})' for name in found)} |", "|---|" + "---|" * len(found)]
    lines += [
        f"| {text} | {' | '.join(f'{values[key]:.3f}' for values in found.values())} |" for key, text in ROWS.items()
    ]
    for text, value in {
        "r of gene sets, mean": lambda frame: f"{frame['r'].mean():.3f}",
        "r of random sets of the same sizes, mean": lambda frame: f"{frame['r_random'].mean():.3f}",
        "gene sets with p < 0.05, not adjusted": lambda frame: f"{(frame['p'] < 0.05).sum()} of {len(frame)}",
    }.items():
        lines.append(f"| {text} | {' | '.join(value(frame) for frame in sets.values())} |")
    (RESULTS / "evaluation.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    figure = ds.pl.evaluation(tested["B4"])[0].figure
    figure.savefig(RESULTS / "evaluation.png", dpi=80)


if __name__ == "__main__":
    main()
