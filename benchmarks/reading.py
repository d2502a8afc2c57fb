"""What predictions of sections that the model did not learn from show, for the page "How to read a prediction".

    DEEPSPOT_DATA=../shared/data python benchmarks/reading.py

A model of C2, C3 and C4 predicts C5, another section of the same patient, and B4, a section of another patient. Genes:
the 1,000 most variable ones that are detected in at least 10 % of the spots of each training section. Writes
benchmarks/results/reading.md, reading_maps.jpg (two genes whose predicted maps are nearly equal on C5, although the
measured ones are not) and reading_r.png (r of all genes on C5 and B4, with its ceiling and baselines).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _sections import load

import deepspot as ds
from deepspot.pl._style import BLUE, GRAY, ORANGE

TRAINING, TESTED = ["C2", "C3", "C4"], {"C5": "other section, same patient", "B4": "other patient"}
OPTIONS = {"patient_key": "patient", "genes": 1000, "min_detected": 0.1, "seed": 0}
ROWS = {
    "r": "mean r",
    "r_depth": "mean r of the depth of spots alone",
    "r_beyond_axis": "mean r beyond the first axis",
    "r_of_ceiling": "mean r over its ceiling",
    "gene_agreement": "agreement of gene-gene correlations",
    "patterns_predicted": "patterns predicted",
    "patterns_measured": "patterns measured (with noise)",
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    mpl.use("Agg")
    ds.settings.progress = False
    slides = load([*TRAINING, *TESTED])
    tested = {name: slides.pop(name) for name in TESTED}
    model = ds.models.train(slides, **OPTIONS)
    for sdata in tested.values():
        ds.tl.predict(sdata, model, key_added="predicted")
        ds.tl.evaluate(sdata, prediction_key="predicted")
    found = {name: sdata.tables["predicted"].uns["deepspot"]["agreement"] for name, sdata in tested.items()}
    lines = [f"| | {' | '.join(f'{name} ({TESTED[name]})' for name in found)} |", "|---|" + "---|" * len(found)]
    lines += [
        f"| {text} | {' | '.join(f'{values[key]:.2f}' for values in found.values())} |" for key, text in ROWS.items()
    ]
    first, second, predicted, measured = twins(tested["C5"])
    lines += [
        "",
        f"On C5, {share_alike(tested['C5']):.0%} of the pairs of predicted genes have |r| > 0.9. {first} and {second}: "
        f"r = {predicted:.2f} between their predictions, {measured:.2f} between their measurements.",
    ]
    (RESULTS / "reading.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    axes = ds.pl.spatial(tested["C5"], [first, second], prediction_key="predicted", figsize=(9, 8))
    axes[0].figure.savefig(RESULTS / "reading_maps.jpg", dpi=80, bbox_inches="tight")
    draw_r({name: sdata.tables["predicted"].var for name, sdata in tested.items()})


def expression(sdata) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predicted and measured log-expression of the same spots and genes."""
    import scanpy as sc

    predicted, measured = sdata.tables["predicted"], sdata.tables["table"].copy()
    sc.pp.normalize_total(measured, target_sum=1e4)
    sc.pp.log1p(measured)
    a = predicted.to_df().set_axis(predicted.obs["spot_id"])
    b = measured.to_df().set_axis(measured.obs["spot_id"])
    genes = [gene for gene in a.columns.intersection(b.columns) if b[gene].std() > 0]
    return a.loc[b.index, genes], b[genes]


def twins(sdata) -> tuple[str, str, float, float]:
    """Two well-predicted genes of many counts with nearly equal predictions whose measurements differ most."""
    predicted, measured = expression(sdata)
    var = sdata.tables["predicted"].var.loc[predicted.columns]
    well = predicted.columns[(var["pearson"] > 0.3) & (var["pearson_ceiling"] > 0.75)]
    a, b = predicted[well].corr().to_numpy(), measured[well].corr().to_numpy()
    i, j = np.unravel_index(np.argmin(np.where(a > 0.95, b, np.inf)), a.shape)
    return well[i], well[j], a[i, j], b[i, j]


def share_alike(sdata) -> float:
    r = np.corrcoef(expression(sdata)[0].to_numpy().T)
    return float((np.abs(r[np.triu_indices(len(r), 1)]) > 0.9).mean())


def draw_r(results: dict[str, pd.DataFrame]) -> None:
    """Sorted curves of r of the genes, with its ceiling and two baselines."""
    figure, axes = plt.subplots(1, len(results), figsize=(10, 4), sharey=True, layout="constrained")
    kinds = {
        "pearson_ceiling": ("ceiling: perfect prediction", GRAY, "--"),
        "pearson": ("prediction", BLUE, "-"),
        "pearson_beyond_axis": ("prediction, beyond the first axis", ORANGE, "-"),
        "pearson_depth": ("depth of spots alone", "black", ":"),
    }
    for ax, (name, var) in zip(axes, results.items(), strict=True):
        for column, (label, color, style) in kinds.items():
            values = np.sort(var[column].dropna())[::-1]
            mean = f"{label}, mean {values.mean():.2f}"
            ax.plot(np.linspace(0, 100, len(values)), values, style, color=color, label=mean)
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        ax.set(title=f"{name}: {TESTED[name]}", xlabel="% of the genes, each curve sorted by itself")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("Pearson r over spots")
    figure.savefig(RESULTS / "reading_r.png", dpi=110)


if __name__ == "__main__":
    main()
