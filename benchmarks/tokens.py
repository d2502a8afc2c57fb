"""Sub-spots from one pass over the spot tile (`subspots="tokens"`) against tiles of their own: what is lost, and saved.

    DEEPSPOT_DATA=../shared/data python benchmarks/tokens.py                # everything, some minutes
    DEEPSPOT_DATA=../shared/data python benchmarks/tokens.py cost toy       # some of it
    DEEPSPOT_DATA=../shared/data python benchmarks/tokens.py full           # with the gated default, which takes longer

Accuracy: the same folds, genes and models twice, patients (or sections) left out in turn; differences are paired by
what was left out, with a 95 % bootstrap over it where there are more than two. A network has one member and no gate;
its search for epochs ends at 20. "Lite0 alone" sees the network's part of the embedding, without the statistics of the
tile. Models without sub-spots are what one pass gave so far, and are compared with those on tiles. Cost: both ways in
turn, as ratios within the run. Writes benchmarks/results/tokens_*.md.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import timm
from _candidates import Columns
from _cohorts import COHORTS, RESULTS, SEED, machine
from _sections import embedded, sections, toy

import deepspot as ds
from deepspot.encoders import EncoderCard
from deepspot.encoders._encode import encode_spots
from deepspot.encoders._torch import MapEncoder
from deepspot.encoders._zoo.networks import Pooled
from deepspot.tl._validation.scores import filled
from deepspot.tl._validation.summary import draws, spread

AROUND = ("spot", "neighbors")
LITE0 = 1280
ONE = {"members": 1}
ALONE = {"gate": "off", "max_epochs": 20}
MODELS = {
    "network": partial(ds.models.DeepSpot, network=ONE, training=ALONE),
    "ridge": ds.models.Ridge,
    "network, Lite0 alone": partial(Columns, last=LITE0, network=ONE, training=ALONE),
    "ridge, Lite0 alone": partial(Columns, kind=ds.models.Ridge, last=LITE0),
}
WITHOUT = {
    "network, no sub-spots": partial(ds.models.DeepSpot, network=ONE | {"context": AROUND}, training=ALONE),
    "ridge, no sub-spots": partial(ds.models.Ridge, context=AROUND),
}
FULL = {"deepspot": partial(ds.models.DeepSpot, training={"max_epochs": 20})}
SLIDES = {
    "toy": toy,
    "within": lambda: sections(["C2", "C3", "C4", "C5"]),
    "patients": lambda: sections(["B4", "C2", "C3", "C4", "C5"]),
}
WAYS = ("tiles", "tokens")
RESAMPLES = 10_000
# 55 µm at 0.5 µm per pixel, in a multiple of three.
TILES, SIDE, REPEATS = 16, 111, 5


def main(names: list[str]) -> None:
    ds.settings.progress = False
    models = MODELS | (FULL if "full" in names else {})
    for name in [name for name in names if name != "full"] or ["cost", *SLIDES]:
        lines = cost() if name == "cost" else accuracy(name, models)
        text = "\n".join([*lines, "", machine()])
        (RESULTS / f"tokens_{name}.md").write_text(f"{text}\n")
        print(text, flush=True)


def accuracy(name: str, models: dict[str, Any]) -> list[str]:
    """Both ways on one cohort."""
    areas, by_slide = {}, {}
    for way in WAYS:
        slides = SLIDES[name]()
        for slide, sdata in slides.items():
            embedded(f"toy_{slide}" if name == "toy" else slide, sdata, subspots=way)
        cv = COHORTS[name].cross_validate(models | (WITHOUT if way == "tiles" else {}), slides, subspots=way)
        areas[way], by_slide[way] = cv.areas(), slide_means(cv.table)
        print(name, way, areas[way].mean(axis=1).round(4).to_dict(), flush=True)
    gain = (areas["tokens"] - areas["tiles"]).loc[list(models)]
    folds = list(gain.columns)
    lines = [
        f"### {COHORTS[name].title}",
        "",
        f"| mean r over the top genes | tiles | tokens | difference (95 %) | {' | '.join(map(str, folds))} |",
        "|" + "---|" * (4 + len(folds)),
    ]
    for model, row in gain.iterrows():
        means = " | ".join(f"{areas[way].loc[model].mean():.3f}" for way in WAYS)
        lines.append(f"| {model} | {means} | {interval(row.to_numpy())} | {' | '.join(f'{d:+.3f}' for d in row)} |")
    for model in WITHOUT:
        less = areas["tiles"].loc[model] - areas["tiles"].loc[model.partition(",")[0]]
        each = " | ".join(f"{d:+.3f}" for d in less)
        lines.append(f"| {model} | {areas['tiles'].loc[model].mean():.3f} | | {interval(less.to_numpy())} | {each} |")
    shown = ["network", "ridge"]
    lines += ["", f"| slide, mean r over all genes | {' | '.join(f'{m}: {way}' for m in shown for way in WAYS)} |"]
    lines.append("|" + "---|" * (1 + 2 * len(shown)))
    for slide in by_slide["tiles"].columns:
        cells = " | ".join(f"{by_slide[way].loc[model, slide]:.3f}" for model in shown for way in WAYS)
        lines.append(f"| {slide} | {cells} |")
    return lines


def slide_means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean r over genes by model and slide."""
    codes = table["undefined"].map({"no": 0, "prediction": 1, "measurement": 2}).to_numpy()
    r = pd.Series(filled(table["r"].to_numpy(), codes), index=table.index)
    return r.groupby([table["model"], table["slide"]], observed=True).mean().unstack()


def interval(differences: np.ndarray) -> str:
    """Mean difference, with its interval where there is enough to resample."""
    mean = f"{differences.mean():+.3f}"
    if len(differences) < 3:
        return mean
    samples = differences[draws(len(differences), RESAMPLES, SEED)].mean(axis=1)
    _, low, high = spread(samples)
    return f"{mean} ({low:+.3f} to {high:+.3f})"


def cost() -> list[str]:
    """Time to embed spots and sub-spots of tiles in memory, in turn."""
    vit = MapEncoder(EncoderCard(name="ViT-S/16, random weights", dim=384), Pooled(
        timm.create_model("vit_small_patch16_224", num_classes=0), "cls", 1))  # fmt: skip
    tiles = np.random.default_rng(SEED).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    lines = [
        f"| encoder, {TILES} spots in memory | tiles of a spot | passes with `tokens` | times as fast, median of "
        f"{REPEATS} (range) |",
        "|---|---|---|---|",
    ]
    for encoder in (ds.encoders.get("lite0_stats"), ds.encoders.get("lite0"), vit):
        encoder.to(None)
        seconds = {way: [] for way in WAYS}
        for repeat in range(REPEATS + 1):
            for way in WAYS:
                start = time.perf_counter()
                encode_spots(
                    [(np.arange(TILES), tiles)], TILES, encoder, grid=3, subspots=True,
                    batch_size=ds.settings.batch_size, tokens=way == "tokens",
                )  # fmt: skip
                if repeat:  # the first warms up
                    seconds[way].append(time.perf_counter() - start)
        ratio = np.divide(seconds["tiles"], seconds["tokens"])
        found = f"{np.median(ratio):.1f} ({ratio.min():.1f} to {ratio.max():.1f})"
        lines.append(f"| {encoder.card.name} | 10 | 1 | {found} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
