"""Whether a correction of shallow counts beats them and the prediction, has the right level, and hides the depth.

    DEEPSPOT_DATA=../shared/data python benchmarks/rescue.py

The counts of a section are thinned (binomial) to a share, corrected, and compared with the complementary counts, which
are independent of those that were kept: r and root mean squared error by gene on the log scale, mean over genes, and
the mean of `expm1` of the values relative to that of the complementary counts. The depth artifact: a random half of the
spots is thinned, and the section is corrected; it is the share of genes whose mean differs between the halves at
p < 0.05 (Welch's t-test on the log scale), where 5 % are expected by chance.

Three models. One of C2-C4 has not seen C5, and not the patient of B4. One of C2-C4 and B4 has not seen C5, and is made
as the embedded model is: each fold of its calibration learns from one of two patients. The embedded model was trained on
both sections, so its results are too good; they show the levels only. C4 was used for development, and B4 for that of an
earlier rule: C5 is independent evidence. Writes benchmarks/results/rescue.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from _sections import load
from correction import CORRECTED, DETECTED, OPTIONS, SEED, logged, with_counts
from scipy.stats import ttest_ind
from spatialdata import SpatialData

import deepspot as ds
from deepspot._stats.metrics import pearson, rmse

MODELS = {"C2-C4": ["C2", "C3", "C4"], "C2-C4 and B4": ["C2", "C3", "C4", "B4"], "embedded": None}
TESTS = ("C5", "B4")
SHARES, REPEATS, CHANCE = (0.25, 0.10, 0.05), 5, 0.05
LAYERS = ["measured", "predicted", "corrected"]
RESULT = Path(__file__).parent / "results" / "rescue.md"


def main() -> None:
    ds.settings.progress = False
    slides, lines = load(["C2", "C3", "C4", "C5", "B4"]), []
    for model_name, sections in MODELS.items():
        model = ds.models.load() if sections is None else ds.models.train({s: slides[s] for s in sections}, **OPTIONS)
        for name in TESTS:
            if sections is None or name not in sections:
                ds.tl.predict(slides[name], model, overwrite=True)
                seen = ", which was trained on this section" * (sections is None)
                lines += [f"### {name} with the model of {model_name}{seen}", "", *rescued(slides[name], model), ""]
    RESULT.write_text("\n".join(lines).replace("model of embedded", "embedded model"))


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
            truth = pd.DataFrame(logged(counts - kept), columns=often.index)[table.var_names].to_numpy()
            there = np.isfinite(truth).all(axis=1)
            for panel in ("all", "often"):
                genes = (often[table.var_names] if panel == "often" else often[table.var_names] | True).to_numpy()
                right = truth[there][:, genes]
                for layer in LAYERS:
                    values, parted = (np.asarray(made.layers[layer], dtype=float)[:, genes] for made in (table, mixed))
                    values, differs = values[there], ttest_ind(parted[half], parted[~half], equal_var=False).pvalue
                    rows.append(
                        {
                            "share": share,
                            "repeat": repeat,
                            "genes": f"{genes.sum():,}" + f", in {DETECTED:.0%} of spots" * (panel == "often"),
                            "layer": layer,
                            "r": np.nan_to_num(pearson(values, right)).mean(),
                            "error": rmse(values, right).mean(),
                            "rate": np.expm1(values).mean() / np.expm1(right).mean(),
                            "artifact": np.mean(differs < CHANCE),
                        }
                    )
    return table_of(pd.DataFrame(rows))


def corrected(sdata: SpatialData, counts: np.ndarray, model: ds.models.DeepSpot):
    """The genes of the model in the corrected table of the section with other counts."""
    slide = with_counts(sdata, counts)
    ds.tl.correct(slide, model, check_registration=False)
    table = slide.tables[CORRECTED]
    return table[:, table.var["in_model"]]


def table_of(found: pd.DataFrame) -> list[str]:
    """Mean over draws; for r and error the range of the corrected value minus that of the better of the other two."""
    heads = ["counts kept", "genes"]
    for score in ("r", "error"):
        heads += [f"{score} {layer}" for layer in LAYERS] + ["corrected - better of both"]
    heads += ["rate predicted", "rate corrected", *(f"artifact {layer}" for layer in LAYERS)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for (genes, share), part in found.groupby(["genes", "share"], sort=False):
        cells, wide = [f"{share:.0%}", genes], part.pivot(index="repeat", columns="layer")
        for score, better in (("r", np.maximum), ("error", np.minimum)):
            values = wide[score]
            gain = values["corrected"] - better(values["measured"], values["predicted"])
            cells += [f"{values[layer].mean():.3f}" for layer in LAYERS]
            cells.append(f"{gain.mean():+.3f} ({gain.min():+.3f} to {gain.max():+.3f})")
        cells += [f"{wide['rate'][layer].mean():.2f}" for layer in LAYERS[1:]]
        cells += [f"{wide['artifact'][layer].mean():.0%}" for layer in LAYERS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
