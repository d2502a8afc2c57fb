"""A report of the demo that is one file."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from deepspot._core.html import embed, facts, figure, page

from .compare import summarise, well_measured
from .data import Slides
from .words import SOURCE, detected, gate, lead, limits, number, programs, result, title, who_predicts

if TYPE_CHECKING:
    import pandas as pd

    from deepspot.models import DeepSpot

    from .figures import Figure


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
    diameter = outcome.model.geometry.tile.tile_um
    body = Template(BODY).substitute(
        lead=lead(slides, len(outcome.scores)),
        limits=limits(slides),
        result=result(outcome.scores),
        scores=_score_tables(outcome.scores),
        programs=programs(outcome.scores),
        histogram=embed(outcome.histogram),
        reliability=embed(outcome.reliability),
        gate=gate(card.gate),  # type: ignore[union-attr,arg-type]
        spots=f"Each circle is one spot, {diameter:g} µm of tissue, drawn to scale.",
        maps="\n".join(figure(drawn.path, drawn.caption) for drawn in outcome.maps),
        facts=facts(_facts(outcome)),
    )
    path.write_text(page(title(slides), body), encoding="utf-8")
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
        f"  {name:<27}mean {number(row['mean_r'])}   median {number(row['median_r'])}" for name, row in rows.iterrows()
    ]
    chosen = well_measured(outcome.scores)
    if not chosen.empty:
        median = number(summarise(chosen)["median_r"].iloc[0])
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
    return table if chosen.empty else f"{table}<p>{detected(len(chosen))}</p>{_score_table(summarise(chosen))}"


def _score_table(rows: pd.DataFrame) -> str:
    head = ("", "mean r", "median r", "genes without r", "error removed (median)")
    lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for name, row in rows.iterrows():
        cells = [number(row["mean_r"]), number(row["median_r"]), f"{row['undefined']:.0f}"]
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
        "Data": SOURCE if slides.real else "synthetic slides of <code>deepspot.datasets.toy</code>",
        "Learnt from": f"{', '.join(slides.train)}: {spots} spots of {len(patients)} "
        f"patient{'s' * (len(patients) > 1)}",
        "Predicted": f"{slides.name}, which no training saw; its measured genes served for the comparison only",
        "Genes": genes,
        "Scale": f"{card.scale}, in measured and predicted genes alike",
        "Image encoder": f"{escape(card.encoder.name)}, frozen; it never learnt from histology. It sees tiles of "
        f"{tile_um:g} µm, and their {grid} × {grid} parts",
        "Model": f"DeepSpot, preset “{card.preset}”: {who_predicts(card)}; it sees the spot, its parts, and the "
        f"neighbours within {reach:g} µm",
        "Time": f"{sum(outcome.seconds.values()):.0f} s in all: {steps}",
        "Versions": f"Python {platform.python_version()}, {', '.join(versions)}",
        "Command": f"<code>{escape(outcome.command)}</code>",
        "Files beside this page": "<code>slide.zarr</code> (SpatialData with image, measured and predicted genes), "
        "<code>metrics.csv</code> (every gene), <code>figures</code>, <code>model</code> (for "
        "<code>ds.models.load</code>)",
    }


BODY = """<p class="lead">$lead</p>
<div class="limits">$limits</div>

<h2>How well did it do?</h2>
<p>$result</p>
<div class="scroll">$scores</div>
<p><b>Pearson r</b> says how well the pattern of a gene over the slide is met: 1 is the same pattern, 0 is none. It is
computed for each gene over the spots of the unseen slide. The training mean predicts the same value everywhere, has no
pattern, and so no r: it is undefined. <b>Error removed</b> is the share of the squared error of that training mean
which a prediction takes away; below 0 it is worse than knowing nothing of the slide.</p>
$programs
<div class="pair">
<figure><img alt="Histogram of r per gene" src="$histogram">
<figcaption>Every gene counts once. Dashed: the medians.</figcaption></figure>
<figure><img alt="Expected r per gene" src="$reliability">
<figcaption>$gate</figcaption></figure>
</div>

<h2>Measured and predicted, side by side</h2>
<p>$spots The genes were picked <b>after</b> the comparison: the three that came out best, which flatter the method, and
one at the median, which is what to expect. A prediction varies less than a measurement, so each panel has its own
colour scale: compare <i>where</i> a gene is high and low.</p>
$maps

<h2>What was done</h2>
$facts

<h2>With your own slides</h2>
<pre>import deepspot as ds

model = ds.tl.train(slides, patient_key="patient", genes=1000)   # slides with measured genes, by name
ds.tl.predict(new_slide, model)                                  # needs only the H&amp;E image and spots
ds.pl.spatial(new_slide, "FASN")</pre>
<p>Keep whole patients apart: a model is only as good as on patients that it has never seen.</p>
"""
