"""How much of the network a blend with ridge should hold, on toy cohorts that no other benchmark reports.

    python benchmarks/gate.py

Four cohorts as hard as that of the other benchmarks and two with stains that differ more, six patients each. Network
and ridge are fitted without each patient in turn. A share that a rule chooses for a patient is chosen by what is
right for the others (whose fits have seen this patient). r is the mean over all genes.
Writes benchmarks/results/gate.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from _cohorts import machine
from _sections import HARD_TOY
from scipy.optimize import nnls

import deepspot as ds
from deepspot._stats.metrics import mean_r
from deepspot.models._confidence.folds import Folds
from deepspot.models._confidence.gate import Gate, judge
from deepspot.tl._train.plan import Keys, Tiling, plan_slides
from deepspot.tl._train.targets import targets, training_set

COHORTS = {f"seed {seed}": {"seed": seed} for seed in (1, 2, 3, 4)} | {
    f"seed {seed}, stains apart": {"seed": seed, "stain_shift": 1.8} for seed in (11, 12)
}
SHARES = np.linspace(0, 1, 5)
TRAINING = {"gate": "off", "max_epochs": 20}
STRICT = "gate that asks the blend for a gain beyond doubt"
OUT = Path(__file__).parent / "results" / "gate.md"
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]  # what network and ridge predict, and what was measured


def main() -> None:
    ds.settings.progress = False
    rows = {}
    for name, options in COHORTS.items():
        pairs = predictions(ds.datasets.toy(**HARD_TOY | options))
        rows[name] = rules(pairs)
        print(name, {rule: round(float(np.mean(r)), 4) for rule, r in rows[name].items()}, flush=True)
    OUT.write_text("\n".join([*table(rows), "", machine()]) + "\n")


def predictions(slides: dict) -> list[Pair]:
    """Leave every slide out once; all genes are measured in all of them."""
    plan = plan_slides(slides, "patient", Keys(), Tiling(ds.encoders.get()))
    bags, genes = plan.embed(), list(plan.measured[0].genes)
    found = []
    for out in plan.measured:
        learnt = [slide for slide in plan.measured if slide is not out]
        data = training_set(learnt, {slide.name: bags[slide.name] for slide in learnt}, targets(learnt, genes)[0])
        known = {"rows": data.rows, "slides": data.slides, "patients": data.patients}
        pair = [
            model.fit(data.bags, data.targets, **known).predict(bags[out.name])[out.rows]
            for model in (ds.models.DeepSpot(training=TRAINING), ds.models.Ridge())
        ]
        found.append((*pair, targets([out], genes)[0][0]))
    return found


def rules(pairs: list[Pair]) -> dict[str, list[float]]:
    """Mean r on each patient by rule."""
    r = np.array([[score(share, pair) for share in SHARES] for pair in pairs])
    found = {f"{share:.0%} network": list(r[:, i]) for i, share in enumerate(SHARES)}
    found["share with the highest r"] = [r[i, np.delete(r, i, axis=0).mean(axis=0).argmax()] for i in range(len(r))]
    others = [pairs[:i] + pairs[i + 1 :] for i in range(len(pairs))]
    found["share by least squares"] = [score(stacked(rest), pair) for rest, pair in zip(others, pairs, strict=True)]
    gates = [gate(rest) for rest in others]
    found["gate: network, half or ridge"] = [score(one.weight, pair) for one, pair in zip(gates, pairs, strict=True)]
    found[STRICT] = [score(strict(one), pair) for one, pair in zip(gates, pairs, strict=True)]
    verdicts = pd.Series([one.verdict for one in gates]).value_counts().to_dict()
    print(f"gate: {verdicts}; strict gate: ridge {sum(strict(one) == 0 for one in gates)}", flush=True)
    return found


def strict(one: Gate) -> float:
    """Share of the network if the blend, too, had to gain beyond doubt."""
    return 0.0 if one.verdict == "blend" and one.blend_low <= 0 else one.weight


def score(share: float, pair: Pair) -> float:
    network, ridge, measured = pair
    return mean_r(share * network + (1 - share) * ridge, measured, np.zeros(len(measured)))


def gate(pairs: list[Pair]) -> Gate:
    """What the package's own gate says."""
    network, ridge, measured = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    labels = np.repeat(np.arange(len(pairs)), [len(pair[0]) for pair in pairs])
    rows = np.arange(len(labels))
    folds = Folds("patients", labels, [(rows[labels != label], rows[labels == label]) for label in range(len(pairs))])
    return judge(network, ridge, measured, folds=folds, slides=labels, binding=True)


def stacked(pairs: list[Pair]) -> float:
    """Share of the network in the non-negative least squares of what was measured, within slides."""
    network, ridge, measured = (np.concatenate([(part - part.mean(axis=0)).ravel() for part in parts])
                                for parts in zip(*pairs, strict=True))  # fmt: skip
    (a, b), _ = nnls(np.column_stack([network, ridge]), measured)
    return a / (a + b)


def table(rows: dict[str, dict[str, list[float]]]) -> list[str]:
    means = pd.DataFrame({cohort: {rule: np.mean(r) for rule, r in found.items()} for cohort, found in rows.items()})
    every = {rule: np.concatenate([found[rule] for found in rows.values()]) for rule in means.index}
    lines = [
        f"| what predicts | {' | '.join(means)} | mean | worst patient, over the network | over ridge |",
        "|" + "---|" * (4 + len(rows)),
    ]
    for rule, r in every.items():
        worst = " | ".join(f"{(r - every[f'{share}% network']).min():+.3f}" for share in (100, 0))
        each = " | ".join(f"{value:.3f}" for value in means.loc[rule])
        lines.append(f"| {rule} | {each} | {means.loc[rule].mean():.4f} | {worst} |")
    return lines


if __name__ == "__main__":
    main()
