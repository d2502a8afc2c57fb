"""Sub-spots from one pass over the spot tile (`subspots="tokens"`) against tiles of their own: what is lost, and saved.

    DEEPSPOT_DATA=../shared/data python benchmarks/one_pass.py [toy patients within cost]

With the default encoder, whose input has 224 px, and with `lite0_stats_336`, whose feature map has more cells for a
sub-spot. The same folds, genes and models for each, patients (or sections) left out in turn; differences are paired by
what was left out, with a 95 % bootstrap over it where there are more than two. The network has one member and no gate;
its search for epochs ends at 20. Time: all in turn, as ratios within the run. Fits are kept in the cache. Writes
benchmarks/results/one_pass_*.md.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import torch
from _timing import in_turn
from scipy.stats import bootstrap
from systems import COHORTS, QUICK, RESULTS, SEED, machine

import deepspot as ds
from deepspot.encoders._encode import encode_spots

# Encoder and source of the sub-spots.
VARIANTS = {
    "tiles": ("lite0_stats", "tiles"),
    "one pass": ("lite0_stats", "tokens"),
    "one pass, `lite0_stats_336`": ("lite0_stats_336", "tokens"),
}
MODELS = {
    "network": partial(ds.models.DeepSpot, network={"members": 1}, training=QUICK | {"gate": "off"}),
    "ridge": ds.models.Ridge,
}
# 55 µm at 0.5 µm per pixel, in a multiple of three.
SPOTS, SIDE, ROUNDS = 16, 111, 5
CPU = torch.device("cpu")


def accuracy(name: str) -> list[str]:
    """All variants on one cohort."""
    areas = {}
    for variant, (encoder, subspots) in VARIANTS.items():
        slides = COHORTS[name].slides()
        cv = ds.models.cross_validate(
            slides,
            patient_key="patient",
            models=MODELS,
            encoder=encoder,
            tiles={"subspots": subspots},
            out=ds.settings.cache("benchmarks", "folds"),
            seed=SEED,
            **COHORTS[name].options,
        )
        areas[variant] = cv.areas()
        print(name, variant, areas[variant].mean(axis=1).round(4).to_dict(), flush=True)
    base = areas["tiles"]
    folds = list(base.columns)
    lines = [
        f"### {COHORTS[name].title}",
        "",
        f"| model | sub-spots | mean r | difference to tiles (95 %) | {' | '.join(map(str, folds))} |",
        "|" + "---|" * (4 + len(folds)),
    ]
    for model in MODELS:
        lines.append(f"| {model} | tiles | {base.loc[model].mean():.3f} | {' | ' * len(folds)} |")
        for variant in list(areas)[1:]:
            gain = (areas[variant] - base).loc[model].to_numpy()
            each = " | ".join(f"{difference:+.3f}" for difference in gain)
            lines.append(
                f"| {model} | {variant} | {areas[variant].loc[model].mean():.3f} | {interval(gain)} | {each} |"
            )
    return lines


def interval(differences: np.ndarray) -> str:
    """Mean difference, with its interval where there is enough to resample."""
    mean = f"{differences.mean():+.3f}"
    if len(differences) < 3:
        return mean
    found = bootstrap((differences,), np.mean, rng=np.random.default_rng(SEED), method="percentile").confidence_interval
    return f"{mean} ({found.low:+.3f} to {found.high:+.3f})"


def cost() -> list[str]:
    """Time to embed spots and sub-spots of tiles in memory, in turn."""
    tiles = np.random.default_rng(SEED).integers(0, 256, (SPOTS, SIDE, SIDE, 3), dtype=np.uint8)

    def embed(encoder: ds.encoders.Encoder, subspots: str) -> None:
        batches, tokens = [(np.arange(SPOTS), tiles)], subspots == "tokens"
        encode_spots(batches, SPOTS, encoder, grid=3, subspots=True, batch_size=ds.settings.batch_size, tokens=tokens)

    calls = {
        variant: partial(embed, ds.encoders.get(encoder).to(CPU), subspots)
        for variant, (encoder, subspots) in VARIANTS.items()
    }
    seconds = in_turn(calls, ROUNDS, CPU)
    lines = [
        f"| sub-spots, {SPOTS} spots in memory | times as fast as tiles, median of {ROUNDS} (range) |",
        "|---|---|",
    ]
    for variant in list(calls)[1:]:
        faster = seconds["tiles"] / seconds[variant]
        lines.append(f"| {variant} | {np.median(faster):.1f} ({faster.min():.1f} to {faster.max():.1f}) |")
    return lines


def main(names: list[str]) -> None:
    ds.settings.progress = False
    for name in names or ["cost", *COHORTS]:
        text = "\n".join([*(cost() if name == "cost" else accuracy(name)), "", machine()])
        (RESULTS / f"one_pass_{name}.md").write_text(f"{text}\n")
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
