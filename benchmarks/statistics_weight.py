"""How much the tile statistics shall weigh in the embedded encoder.

    DEEPSPOT_DATA=../shared/data python benchmarks/statistics_weight.py

Leave-one-section-out on the training sections C2-C4 decides; B4 (another patient, development data) stands beside it.
One member, genes chosen on the training sections: the 200 most variable of those in at least 30 % of spots. Writes
benchmarks/results/statistics_weight.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _sections import load
from real_sections import measured

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._features.feature_table import bags_of
from deepspot._spatial.geometry import NeighborRule
from deepspot._stats.metrics import pearson
from deepspot.encoders._lite0 import LITE0, STATISTICS_WEIGHT
from deepspot.tl._train.targets import choose_genes, targets, training_set

WEIGHTS, SEED = (0, 0.3, 1, 3, 10), 0
C = ["C2", "C3", "C4"]
SPLITS = [([name for name in C if name != test], test) for test in C] + [(C, "B4")]
OUT = Path(__file__).parent / "results" / "statistics_weight.md"


def main() -> None:
    ds.settings.progress = False
    slides = load([*C, "B4"])
    known = {name: measured(name, sdata) for name, sdata in slides.items()}
    rule = NeighborRule(reach=300)
    bags = {name: bags_of(sdata, "lite0_stats_spots", "spots", rule) for name, sdata in slides.items()}
    lines = [
        "| weight | " + " | ".join(test for _, test in SPLITS) + " | mean over C |",
        "|---" * (len(SPLITS) + 2) + "|",
    ]
    for weight in WEIGHTS:
        r = [score(training, test, known, bags, weight) for training, test in SPLITS]
        cells = [f"{weight:g}", *(f"{value:.3f}" for value in r), f"{np.mean(r[:-1]):.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n")


def score(training: list[str], test: str, known: dict, bags: dict, weight: float) -> float:
    train = [known[name] for name in training]
    genes = choose_genes(train, 200, min_detected=0.3)
    chosen = {name: weighted(bags[name], weight) for name in training}
    data = training_set(train, chosen, targets(train, genes)[0])
    model = ds.models.DeepSpot(network={"members": 1}, seed=SEED).fit(data.bags, data.targets, **data.options)
    predicted = model.predict(weighted(bags[test], weight))[known[test].rows]
    return float(np.nanmean(pearson(predicted, targets([known[test]], genes)[0][0])))


def weighted(bags: Bags, weight: float) -> Bags:
    factor = np.ones(bags.dim, dtype=np.float32)
    factor[LITE0.dim :] = weight / STATISTICS_WEIGHT
    return Bags(bags.spot * factor, (bags.subspots * factor).astype(np.float16), bags.neighbors)


if __name__ == "__main__":
    main()
