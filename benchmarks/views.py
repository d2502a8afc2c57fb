"""What a model is shown: how far neighbours reach, which encoder, stains, symmetries, surroundings, oversampling.

    DEEPSPOT_DATA=../shared/data python benchmarks/views.py

One network (no blend) and tuned ridge, patients left out in turn. The first table has spot, sub-spots and neighbours.
The second leaves sub-spots out, which are nine tenths of the work of an encoder. Every row is compared with the first
of its table, fold by fold. Writes benchmarks/results/views_*.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from _cohorts import COHORTS, write
from _sections import embedded, sections, toy
from _views import Surroundings, Symmetric, lite2, stains_alike
from spatialdata import SpatialData

import deepspot as ds

AROUND = ("spot", "neighbors")
SLIDES = {"toy": toy, "patients": partial(sections, ["B4", "C2", "C3", "C4", "C5"])}
# Three diameters of a spot in µm: the middle third is the tile of the default.
WIDE_UM = {"toy": 165.0, "patients": 300.0}


@dataclass(frozen=True)
class Look:
    """One way to show slides to a model."""

    options: dict[str, Any] = field(default_factory=dict)
    encoder: Callable[[], ds.encoders.Encoder] | None = None
    stain: str | None = None
    wide: bool = False
    toy_only: bool = False


WHOLE = {
    "neighbours up to 1.5 distances (default)": Look(),
    "radius of 1 step of the array, as the paper's": Look({"array_box": 1}),
    "radius of 2 steps": Look({"array_box": 2}),
    "radius of 3 steps": Look({"array_box": 3}),
    "oversampled: Leiden": Look({"oversample": "leiden"}),
    "oversampled: AESTETIK": Look({"oversample": "aestetik"}, toy_only=True),  # minutes a fold
}
TILES = {
    "default": Look(),
    "Lite2 (and statistics) instead of Lite0": Look(encoder=lite2),
    "stains alike: Reinhard": Look(stain="reinhard"),
    "stains alike: Macenko": Look(stain="macenko"),
    "mean over the symmetries of the square": Look(encoder=Symmetric),
    "surroundings of three diameters beside the tile": Look(encoder=Surroundings, wide=True),
}


def main(names: list[str]) -> None:
    ds.settings.progress = False
    for name in names or SLIDES:
        lines = []
        for title, looks, subspots in (
            ("spot, sub-spots and neighbours", WHOLE, True),
            ("spot and neighbours", TILES, False),
        ):
            areas = {}
            for label, look in looks.items():
                if look.toy_only and name != "toy":
                    continue
                areas[label] = measure(name, look, subspots)
                print(name, label, areas[label].mean(axis=1).round(3).to_dict(), flush=True)
            lines += [*table(title, areas), ""]
        write("views", name, lines[:-1])


def measure(name: str, look: Look, subspots: bool) -> pd.DataFrame:
    """Area under the curve of network and ridge by fold."""
    context = {} if subspots else {"context": AROUND}
    models = {
        "network": partial(
            ds.models.DeepSpot, network={"members": 1} | context, training={"gate": "off", "max_epochs": 20}
        ),
        "ridge": partial(ds.models.Ridge, **context),
    }
    slides: dict[str, SpatialData] = SLIDES[name]()
    if look.stain:
        slides = stains_alike(slides, look.stain)
    encoder = look.encoder() if look.encoder else None
    tile = {"tile_um": WIDE_UM[name]} if look.wide else {}
    prefix, suffix = "toy_" if name == "toy" else "", f"_{look.stain}" if look.stain else ""
    for slide, sdata in slides.items():
        embedded(f"{prefix}{slide}{suffix}", sdata, encoder, subspots=subspots, **tile)
    cv = COHORTS[name].cross_validate(models, slides, encoder=encoder, subspots=subspots, **tile, **look.options)
    return cv.areas().loc[list(models)]


def table(title: str, areas: dict[str, pd.DataFrame]) -> list[str]:
    """One row for each look, with its difference to the first and on how many folds it is above it."""
    first = next(iter(areas.values()))
    lines = [
        f"| {title} | network | difference | better on | ridge | difference | better on |",
        "|" + "---|" * 7,
    ]
    for label, found in areas.items():
        cells = []
        for model in found.index:
            gain = found.loc[model] - first.loc[model]
            cells.append(f"{found.loc[model].mean():.3f}")
            cells += ["", ""] if found is first else [f"{gain.mean():+.3f}", f"{np.sum(gain > 0)} of {len(gain)}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
