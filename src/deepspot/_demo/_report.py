"""A report of the demo that is one file."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from deepspot._html import embed, facts, figure, page

from . import _words
from ._compare import summarise, well_measured
from ._data import Slides
from ._template import BODY

if TYPE_CHECKING:
    import pandas as pd

    from deepspot.models import DeepSpot

    from ._figures import Figure

LIBRARIES = ("deepspot", "torch", "spatialdata", "scanpy", "numpy")


@dataclass(frozen=True)
class Outcome:
    """All that the report tells.

    Attributes
    ----------
    slides, model, scores
        Data, model, and one row per gene.
    maps, histogram, reliability
        Figures.
    seconds
        By step.
    command
        How to do it again.
    """

    slides: Slides
    model: DeepSpot
    scores: pd.DataFrame
    maps: list[Figure]
    histogram: Path
    reliability: Path
    seconds: dict[str, float]
    command: str


def write_report(outcome: Outcome, path: Path) -> Path:
    """Write the report."""
    slides, card = outcome.slides, outcome.model.card
    diameter = card.geometry.tile.tile_um  # type: ignore[union-attr]
    body = Template(BODY).substitute(
        lead=_words.lead(slides, len(outcome.scores)),
        limits=_words.limits(slides),
        result=_words.result(outcome.scores),
        scores=_score_tables(outcome.scores),
        programs=_words.programs(outcome.scores),
        histogram=embed(outcome.histogram),
        reliability=embed(outcome.reliability),
        gate=_words.gate(card.gate),  # type: ignore[union-attr,arg-type]
        spots=f"Each circle is one spot, {diameter:g} µm of tissue, drawn to scale.",
        maps="\n".join(figure(drawn.path, drawn.caption) for drawn in outcome.maps),
        facts=facts(_facts(outcome)),
    )
    path.write_text(page(_words.title(slides), body), encoding="utf-8")
    return path


def summary(outcome: Outcome, out: Path) -> str:
    """What is printed at the end."""
    slides, rows = outcome.slides, summarise(outcome.scores)
    data = f"HER2ST sections {', '.join(slides.train)} → {slides.name} (one patient: a check that the code learns)"
    if not slides.real:
        data = (
            f"synthetic slides {', '.join(slides.train)} → {slides.name} (drawn by a computer: says nothing of tissue)"
        )
    scores = [
        f"  {name:<27}mean {_words.number(row['mean_r'])}   median {_words.number(row['median_r'])}"
        for name, row in rows.iterrows()
    ]
    chosen = well_measured(outcome.scores)
    if not chosen.empty:
        median = _words.number(summarise(chosen)["median_r"].iloc[0])
        scores.append(f"  DeepSpot on the {len(chosen)} genes found in 30 % of training spots or more: median {median}")
    written = [f"  {out / name}" for name in ("report.html", "metrics.csv", "figures", "slide.zarr", "model")]
    spots = len(slides.test.shapes["spots"])
    lines = [
        "",
        data,
        f"{len(outcome.scores)} genes, {spots} spots that no training saw. Pearson r over these spots:",
        *scores,
        f"Took {sum(outcome.seconds.values()):.0f} s. Written:",
        *written,
    ]
    return "\n".join(lines)


def _score_tables(scores: pd.DataFrame) -> str:
    chosen = well_measured(scores)
    table = _score_table(summarise(scores))
    return table if chosen.empty else f"{table}<p>{_words.detected(len(chosen))}</p>{_score_table(summarise(chosen))}"


def _score_table(rows: pd.DataFrame) -> str:
    head = ("", "mean r", "median r", "genes without r", "error removed (median)")
    lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for name, row in rows.iterrows():
        cells = [_words.number(row["mean_r"]), _words.number(row["median_r"]), f"{row['undefined']:.0f}"]
        lines.append(
            f"<tr><td>{escape(str(name))}</td>"
            + "".join(f"<td>{cell}</td>" for cell in [*cells, f"{row['median_skill']:.0%}"])
            + "</tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def _facts(outcome: Outcome) -> dict[str, str]:
    slides, card = outcome.slides, outcome.model.card
    if card is None or card.encoder is None or card.geometry is None:
        return {}
    spots, patients = sum(slide.spots for slide in card.slides), {slide.patient for slide in card.slides}
    grid, tile_um, reach = card.geometry.tile.grid, card.geometry.tile.tile_um, card.geometry.neighbors.reach
    genes = f"all {len(card.genes)}, also those that follow nothing in the image"
    if slides.real:
        genes = f"the {len(card.genes)} most variable ones (Seurat v3), chosen on the training slides alone"
    steps = ", ".join(f"{name[0].lower()}{name[1:]} {value:.0f} s" for name, value in outcome.seconds.items())
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    return {
        "Data": _words.SOURCE if slides.real else "synthetic slides of <code>deepspot.datasets.toy</code>",
        "Learnt from": f"{', '.join(slides.train)}: {spots} spots of {len(patients)} "
        f"patient{'s' * (len(patients) > 1)}",
        "Predicted": f"{slides.name}, which no training saw; its measured genes served for the comparison only",
        "Genes": genes,
        "Scale": f"{card.scale}, in measured and predicted genes alike",
        "Image encoder": f"{escape(card.encoder.name)}, frozen; it never learnt from histology. It sees tiles of "
        f"{tile_um:g} µm, and their {grid} × {grid} parts",
        "Model": f"DeepSpot, preset “{card.preset}”: {_words.who_predicts(card)}; it sees the spot, its parts, and the "
        f"neighbours within {reach:g} µm",
        "Time": f"{sum(outcome.seconds.values()):.0f} s in all: {steps}",
        "Versions": f"Python {platform.python_version()}, {', '.join(versions)}",
        "Command": f"<code>{escape(outcome.command)}</code>",
        "Files beside this page": "<code>slide.zarr</code> (SpatialData with image, measured and predicted genes), "
        "<code>metrics.csv</code> (every gene), <code>figures</code>, <code>model</code> (for "
        "<code>ds.models.load</code>)",
    }
