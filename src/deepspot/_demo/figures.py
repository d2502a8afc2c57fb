"""Figures of the demo, and what stands under them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspot import pl
from deepspot._core.keys import valid_name
from deepspot.pl._style import BLUE, ORANGE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot

DPI = 100
BEST = 3


@dataclass(frozen=True)
class Figure:
    """A file and its caption."""

    path: Path
    caption: str


def chosen_genes(r: pd.Series) -> list[tuple[str, str]]:
    """The genes to draw, and how each was chosen: those with the highest r, and the one at the median."""
    ranked = r.dropna().sort_values(ascending=False)
    names = ("Best", "Second best", "Third best")[:BEST]
    picked = [(str(gene), f"{name} of {len(ranked)} genes") for name, gene in zip(names, ranked.index, strict=False)]
    if len(ranked) > BEST:
        picked.append((str(ranked.index[len(ranked) // 2]), f"Typical: the median of {len(ranked)} genes"))
    return picked


def draw_maps(sdata: SpatialData, r: pd.Series, folder: Path) -> list[Figure]:
    """Measured and predicted maps of the chosen genes."""
    figures = []
    for number, (gene, how) in enumerate(chosen_genes(r), start=1):
        kind = "typical" if how.startswith("Typical") else f"best_{number}"
        path = folder / f"spatial_{kind}_{valid_name(gene)}.png"
        _save(path, pl.spatial(sdata, gene)[0])
        figures.append(Figure(path, f"{how} by r: {gene}, r = {r[gene]:.2f}."))
    return figures


def draw_reliability(model: DeepSpot, folder: Path) -> Path:
    """What the model expects of each gene, before it sees the slide."""
    return _save(folder / "reliability.png", pl.reliability(model))


def draw_histogram(scores: pd.DataFrame, folder: Path) -> Path:
    """Distribution of r over genes, of DeepSpot and ridge."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    values = {"DeepSpot": (scores["r_deepspot"].dropna(), BLUE), "tuned ridge": (scores["r_ridge"].dropna(), ORANGE)}
    low = min([0.0, *(r.min() for r, _ in values.values() if len(r))])
    high = max([0.1, *(r.max() for r, _ in values.values() if len(r))])
    edges = [float(edge) for edge in np.linspace(low, high, 26)]
    for name, (r, color) in values.items():
        ax.hist(r, bins=edges, histtype="step", linewidth=1.8, color=color, label=f"{name}, median {r.median():.2f}")
        ax.axvline(r.median(), color=color, linewidth=1, linestyle="--")
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="Pearson r between predicted and measured, over spots", ylabel="genes")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return _save(folder / "r_per_gene.png", ax)


def _save(path: Path, ax: Axes) -> Path:
    import matplotlib.pyplot as plt

    figure = ax.get_figure(root=True)
    save: Callable[..., None] = figure.savefig  # type: ignore[union-attr]
    save(path, dpi=DPI)
    plt.close(figure)  # type: ignore[arg-type]
    return path
