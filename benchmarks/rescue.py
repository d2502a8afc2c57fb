"""Whether a correction of shallow counts beats them and the prediction, has the right level, and hides the depth.

    DEEPSPOT_DATA=../shared/data python benchmarks/rescue.py

The counts of a section are thinned (binomial) to a share, corrected, and compared with the complementary counts, which
are independent of those that were kept: r and root mean squared error by gene on the log scale, mean over genes, and
the mean rate (counts per 10,000) relative to that of the complementary counts. The squared error of logarithms prefers
low values where most counts are 0, so the Poisson deviance of the complementary counts from the rates is reported too
(not from the measured rates, which are often 0). The depth artifact: a random half of the spots is thinned, the other
keeps all counts, and the section is corrected; it is the share of genes that differ between the halves at p < 0.05 by
Welch's t-test or the Mann-Whitney test on the log scale. 5 % are expected without artifact.

The first model has not seen C5, and not the patient of B4. Two models have not seen C5 or the right half of B4, and are
made like the embedded one: each fold of their calibration learns from one of two patients. The embedded model was
trained on both sections, so that its prediction contains the noise of the counts, also of the complementary ones: its
results are no evidence. Writes benchmarks/results/rescue.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from _sections import load
from anndata import AnnData
from correction import CORRECTED, DETECTED, OPTIONS, SEED, with_counts
from scipy.stats import mannwhitneyu, ttest_ind
from sklearn.metrics import mean_poisson_deviance
from spatialdata import SpatialData

import deepspot as ds
from deepspot._spatial.transforms import place_spots
from deepspot._stats.metrics import pearson, rmse

LEFT, RIGHT = "B4 left half", "B4 right half"
# Training sections and test sections.
MODELS = {
    "C2-C4": (["C2", "C3", "C4"], ["C5", "B4"]),
    "C2-C4 and B4": (["C2", "C3", "C4", "B4"], ["C5"]),
    "C2-C5 and the left half of B4": (["C2", "C3", "C4", "C5", LEFT], [RIGHT]),
    "embedded": (None, ["C5", "B4"]),
}
SHARES, REPEATS, CHANCE = (0.25, 0.10, 0.05), 5, 0.05
LOWEST = 0.01  # counts per 10,000; the deviance from a rate of 0 is infinite
LAYERS = ["measured", "predicted", "corrected"]
RESULT = Path(__file__).parent / "results" / "rescue.md"


def main() -> None:
    ds.settings.progress = False
    slides, lines = load(["C2", "C3", "C4", "C5", "B4"]), []
    slides[LEFT], slides[RIGHT] = halves(slides["B4"])
    for model_name, (sections, tests) in MODELS.items():
        model = ds.models.load() if sections is None else ds.models.train({s: slides[s] for s in sections}, **OPTIONS)
        for name in tests:
            ds.tl.predict(slides[name], model, overwrite=True)
            seen = ", which was trained on this section" * (sections is None)
            lines += [f"### {name} with the model of {model_name}{seen}", "", *rescued(slides[name], model), ""]
    RESULT.write_text("\n".join(lines).replace("model of embedded", "embedded model"))


def halves(sdata: SpatialData) -> list[SpatialData]:
    """The section with the counts of the spots on the left, and with those on the right."""
    placement, table = place_spots(sdata, next(iter(sdata.images)), "spots"), sdata.tables["table"]
    left = placement.centers[:, 0] < np.median(placement.centers[:, 0])
    parts = [table[rows].copy() for rows in (left, ~left)]
    return [SpatialData(sdata.images, {}, {}, sdata.shapes, {**sdata.tables, "table": part}) for part in parts]


def rescued(sdata: SpatialData, model: ds.models.DeepSpot) -> list[str]:
    table = sdata.tables["table"]
    counts = table.X.toarray().astype(int)
    often = pd.Series((counts > 0).mean(axis=0) >= DETECTED, index=table.var_names)
    rows = []
    for share in SHARES:
        for repeat in range(REPEATS):
            rng = np.random.default_rng([SEED, repeat, round(100 * share)])
            kept, half = rng.binomial(counts, share), rng.permutation(len(counts)) < len(counts) // 2
            table = corrected(sdata, kept, model)
            mixed = corrected(sdata, np.where(half[:, None], kept, counts), model)
            others = pd.DataFrame(counts - kept, columns=often.index)
            depth = others.sum(axis=1).to_numpy()
            others = others[table.var_names].to_numpy()
            there = depth > 0
            panels = {"all": np.full(table.n_vars, True), "often": often[table.var_names].to_numpy()}
            for panel, genes in panels.items():
                named = f"{genes.sum():,}" + f", in {DETECTED:.0%} of spots" * (panel == "often")
                for layer in LAYERS:
                    scores = scores_of(table, mixed, layer, genes, others[:, genes], depth, there, half)
                    rows.append({"genes": named, "share": share, "repeat": repeat, "layer": layer, **scores})
    found = pd.DataFrame(rows)
    return [*table_of_errors(found), "", *table_of_levels(found)]


def scores_of(
    table: AnnData,
    mixed: AnnData,
    layer: str,
    genes: np.ndarray,
    others: np.ndarray,
    depth: np.ndarray,
    there: np.ndarray,
    half: np.ndarray,
) -> dict[str, float]:
    """Scores of a layer against the complementary counts `others` of the spots with a `depth` of them."""
    values, parted = (np.asarray(made.layers[layer], dtype=float)[:, genes] for made in (table, mixed))
    values, others, per_count = values[there], others[there], depth[there, None] / 1e4
    truth, rate, true_rate = np.log1p(others / per_count), np.expm1(values), (others / per_count).mean()
    posterior = np.asarray(table.layers["rate"], dtype=float)[:, genes][there] if layer == "corrected" else rate
    expected = np.maximum(posterior, LOWEST) * per_count
    welch = ttest_ind(parted[half], parted[~half], equal_var=False).pvalue
    ranks = mannwhitneyu(parted[half], parted[~half]).pvalue
    return {
        "r": np.nan_to_num(pearson(values, truth)).mean(),
        "error": rmse(values, truth).mean(),
        "rate": posterior.mean() / true_rate,
        "deviance": mean_poisson_deviance(others.ravel(), expected.ravel()),
        "expm1": rate.mean() / true_rate,
        "Welch": np.mean(welch < CHANCE),
        "Mann-Whitney": np.mean(ranks < CHANCE),
    }


def corrected(sdata: SpatialData, counts: np.ndarray, model: ds.models.DeepSpot) -> AnnData:
    """The genes of the model in the corrected table of the section with other counts."""
    slide = with_counts(sdata, counts)
    ds.tl.correct(slide, model, check_registration=False)
    table = slide.tables[CORRECTED]
    return table[:, table.var["in_model"]]


def table_of_errors(found: pd.DataFrame) -> list[str]:
    """Mean over draws, and the range over draws of the corrected value minus that of the better of the other two."""
    heads = ["genes", "counts kept"]
    for score in ("r", "error"):
        heads += [f"{score} {layer}" for layer in LAYERS] + ["corrected - better of both"]
    heads.append("deviance corrected / predicted - 1")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for (genes, share), part in found.groupby(["genes", "share"], sort=False):
        cells, wide = [genes, f"{share:.0%}"], part.pivot(index="repeat", columns="layer")
        for score, better in (("r", np.maximum), ("error", np.minimum)):
            values = wide[score]
            gain = values["corrected"] - better(values["measured"], values["predicted"])
            cells += [f"{values[layer].mean():.3f}" for layer in LAYERS]
            cells.append(f"{gain.mean():+.3f} ({gain.min():+.3f} to {gain.max():+.3f})")
        deviance = wide["deviance"]["corrected"] / wide["deviance"]["predicted"] - 1
        cells.append(f"{deviance.mean():+.1%} ({deviance.min():+.1%} to {deviance.max():+.1%})")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table_of_levels(found: pd.DataFrame) -> list[str]:
    tests = [(test, layer) for test in ("Welch", "Mann-Whitney") for layer in LAYERS]
    heads = ["genes", "counts kept", "rate predicted", "rate corrected", "`expm1` of corrected"]
    heads += [f"artifact {layer} ({test})" for test, layer in tests]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for (genes, share), part in found.groupby(["genes", "share"], sort=False):
        mean = part.groupby("layer")[["rate", "expm1", "Welch", "Mann-Whitney"]].mean()
        rates = mean.loc["predicted", "rate"], mean.loc["corrected", "rate"], mean.loc["corrected", "expm1"]
        cells = [genes, f"{share:.0%}", *map("{:.2f}".format, rates)]
        cells += [f"{mean.loc[layer, test]:.0%}" for test, layer in tests]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
