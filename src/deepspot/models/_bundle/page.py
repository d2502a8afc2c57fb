"""A model card as a page for people, in Markdown."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from deepspot.models._confidence.gate import UNITS

if TYPE_CHECKING:
    from deepspot.models._confidence.reliability import Reliability

    from .card import ModelCard


# Licences that Hugging Face knows; it refuses a page that names another one.
LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unknown",
}  # fmt: skip
TAGS = ["deepspot", "spatial-transcriptomics", "histopathology", "pathology", "gene-expression", "biology"]
HUB_PAGE = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")
SHOWN = 12


def front_matter(card: ModelCard) -> str:
    """Metadata for Hugging Face, in YAML."""
    from huggingface_hub import ModelCardData

    name = re.sub(r"[^a-z0-9.]+", "-", card.licence.lower()).strip("-") or "unknown"
    base = None if card.encoder is None else HUB_PAGE.fullmatch(card.encoder.url)
    data = ModelCardData(
        license=name if name in LICENCES else "other",
        license_name=None if name in LICENCES else name,
        library_name="deepspot",
        pipeline_tag="other",  # there is none for genes from images
        tags=TAGS,
        base_model=base.group(1) if base else None,
    )
    return data.to_yaml() + "\n"


def page(card: ModelCard, where: str = "path/of/the/model") -> str:
    """What a pathologist has to know before using a model, and how to use it."""
    parts = [
        f"# {plain(card.name)}",
        _what(card),
        "## Limits\n\n" + _limits(card),
        "## How to use it\n\n" + code(
            "import deepspot as ds\n\n"
            f"model = ds.models.load({json.dumps(where)})\n"
            "ds.tl.predict(sdata, model)  # a SpatialData with an H&E image and spots"
        ),
        "## What it learnt from\n\n" + _training(card),
        "## What the image has to look like\n\n" + _geometry(card),
        "## The encoder\n\n" + _encoder(card),
        "## How good it is\n\n" + how_good(card),
        "## How it was made\n\n" + _made(card),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _what(card: ModelCard) -> str:
    spot = f" of {card.geometry.tile.tile_um:g} µm" if card.geometry else ""
    tissue = plain(card.tissue) if card.tissue else "tissue that its card does not name"
    licence = "unknown; ask who made it before you use it" if card.licence == "unknown" else plain(card.licence)
    names = ", ".join(plain(gene) for gene in card.genes[:SHOWN])
    more = f" and {len(card.genes) - SHOWN:,} more (all in `card.json`)" if len(card.genes) > SHOWN else ""
    return (
        f"Predicts the expression of **{len(card.genes):,} genes** from H&E images, for every spot{spot}, in "
        f"**{tissue}**.\n\n"
        f"- Genes: {names}{more}.\n"
        f"- Values: {plain(card.scale)}, counts summed over {plain(card.depth)}.\n"
        f"- Licence: **{licence}**." + (f"\n\n{plain(card.note)}" if card.note else "")
    )


def _training(card: ModelCard) -> str:
    patients = sorted({slide.patient for slide in card.slides})
    if not card.slides:
        return "The card does not say which slides or patients the model learnt from."
    spots = sum(slide.spots for slide in card.slides)
    words = _count(len(card.slides), "slide") + " of " + _count(len(patients), "patient") + f", {spots:,} spots"
    if len(card.slides) > 2 * SHOWN:
        return words + "."
    rows = [[plain(slide.patient), plain(slide.slide), f"{slide.spots:,}"] for slide in card.slides]
    return f"{words}.\n\n" + table(["patient", "slide", "spots"], rows)


def _geometry(card: ModelCard) -> str:
    if card.geometry is None:
        return "The model was fitted on embeddings alone, so that the size of its tiles is not known."
    tile, rule = card.geometry.tile, card.geometry.neighbors
    reach = (
        f"within {rule.reach:g} µm" if rule.kind == "radius" else f"up to {rule.reach:g} steps in the array of spots"
    )
    rows = [
        ["tile of a spot", f"{tile.tile_um:g} × {tile.tile_um:g} µm"],
        ["resized to", f"{tile.input_px} × {tile.input_px} px ({tile.tile_um / tile.input_px:.2f} µm per pixel)"],
    ]
    if "subspots" in card.network.context:
        made = ", from one pass over the tile" if tile.subspots == "tokens" else ""
        rows.append(["sub-spots", f"{tile.grid} × {tile.grid}, each {tile.tile_um / tile.grid:.3g} µm wide{made}"])
    if "neighbors" in card.network.context:
        rows.append(["neighbours", f"at most {rule.cap}, {reach}"])
    return "Slides of any resolution are resampled to it; the µm per pixel of the slide have to be known.\n\n" + table(
        rows[0], rows[1:]
    )


def _encoder(card: ModelCard) -> str:
    if card.encoder is None:
        return f"Not known: the model takes embeddings of length {card.dim:,}."
    encoder = card.encoder
    seen = "not stated" if encoder.mpp is None else f"histology at {encoder.mpp:g} µm per pixel"
    rows = [
        ["name", plain(encoder.name)], ["learnt from", seen], ["length of an embedding", f"{encoder.dim:,}"],
        ["licence of its weights", plain(encoder.licence)], ["weights", plain(encoder.source)],
    ]  # fmt: skip
    if encoder.gated:
        rows.append(["access", "gated: access has to be asked for where the weights are"])
    if HUB_PAGE.fullmatch(encoder.url):
        rows.append(["page", f"<{encoder.url}>"])
    note = f"\n\n{plain(encoder.note)}" if encoder.note else ""
    return "The weights of the encoder are not part of this model.\n\n" + table(rows[0], rows[1:]) + note


def _limits(card: ModelCard) -> str:
    patients = len({slide.patient for slide in card.slides})
    tissue = plain(card.tissue) if card.tissue else "the tissue that it learnt from"
    limits = [
        "For research. It has not been validated for diagnosis or for decisions on treatment.",
        "A prediction describes a spot, not a cell, and genes that are hardly visible in H&E are hardly predicted.",
        f"Other tissue than {tissue}, other stains, scanners or spot sizes: not tested. Compare with measured slides "
        "first.",
    ]
    if 0 < patients < 5:
        limits.append(f"{_count(patients, 'patient')} cannot show how much patients differ.")
    if card.reliability is None:
        limits.append("How reliable its genes are was not measured.")
    return "\n".join(f"- {limit}" for limit in limits)


def _made(card: ModelCard) -> str:
    network, versions = card.network, ", ".join(f"{plain(k)} {plain(v)}" for k, v in card.versions.items())
    rows = [
        ["preset", plain(card.preset)],
        [
            "network",
            f"φ {network.n_phi} × {network.width}, sees {', '.join(network.context)}; {network.members} members",
        ],
        ["epochs, seed", f"{card.epochs}, {card.seed}"],
        ["versions", versions or "not known"],
        ["format", f"{card.format}"],
        ["SHA-256 of the weights", f"`{plain(card.sha256)}`" if card.sha256 else "not saved yet"],
    ]
    return table(rows[0], rows[1:])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


EDGES = (0.1, 0.2, 0.3, 0.4, 0.5)
BAR, BEST = 30, 10


def how_good(card: ModelCard) -> str:
    """The gate's sentence, the spread of r over genes, and whether there are intervals."""
    if card.reliability is None:
        return "Not measured: no held-out patients were predicted when this model was made."
    known = card.reliability
    gate = (
        "" if card.gate is None else f"Against ridge, a linear model of the same embeddings: {plain(str(card.gate))}."
    )
    parts = [gate, _spread(known), _distribution(known), _best(card.genes, known), _intervals(known)]
    return "\n\n".join(part for part in parts if part)


def _spread(known: Reliability) -> str:
    r = _numbers(known.r)
    if not len(r):
        return f"No gene varied in {_units(known)}."
    low, median, high = np.quantile(r, [0.1, 0.5, 0.9])
    words = (
        f"Pearson's r of predicted and measured expression within a slide, on {_units(known)}: median over genes "
        f"**{median:.2f}** (10 % of the genes are below {low:.2f}, 10 % above {high:.2f})."
    )
    if len(r) < len(known.r):
        words += f" {len(known.r) - len(r):,} genes did not vary, so that nothing is known of them."
    if known.unit != "patients":
        words += " These are no other patients, so r is too high for the next patient."
    elif known.n < 5:
        words += f" {known.n} patients are few: the next one can lie far from them."
    return words


def _distribution(known: Reliability) -> str:
    r = _numbers(known.r)
    if not len(r):
        return ""
    edges = [-np.inf, *EDGES, np.inf]
    between = [f"{low} to {high}" for low, high in pairwise(EDGES)]
    names = [f"below {EDGES[0]}", *between, f"above {EDGES[-1]}"]
    counts = [int(((r >= low) & (r < high)).sum()) for low, high in pairwise(edges)]
    rows = [[name, f"{count:,}", _bar(count / max(counts))] for name, count in zip(names, counts, strict=True)]
    return table(["expected r", "genes", ""], rows)


def _bar(share: float) -> str:
    return "█" * round(BAR * share) or "▏" * (share > 0)


def _best(genes: list[str], known: Reliability) -> str:
    every = zip(genes, known.r, known.r_low, known.r_high, strict=True)
    told = sorted(((r, gene, low, high) for gene, r, low, high in every if r is not None), key=lambda row: -row[0])
    if not told:
        return ""
    rows = [
        [plain(gene), f"{r:.2f}", "" if low is None or high is None else f"{low:.2f} to {high:.2f}"]
        for r, gene, low, high in told[:BEST]
    ]
    header = ["gene", "expected r", f"90 % interval over {known.unit}"]
    return f"The {len(rows)} genes with the highest r, which is a little too high for being chosen by it:\n\n" + table(
        header, rows
    )


def _intervals(known: Reliability) -> str:
    if known.half_width is None:
        return f"Prediction intervals: none. {_sentence(known.why_no_interval)}"
    half = _numbers(known.half_width)
    width = f"± {np.median(half):.2f} for the median gene" if len(half) else "for no gene"
    return f"Prediction intervals at {known.level:.0%}, calibrated over patients: {width}."


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None], dtype=float)


def _units(known: Reliability) -> str:
    return f"{known.n} held-out {UNITS[known.unit]}"


def _sentence(text: str) -> str:
    text = plain(text).rstrip(".")
    return text[:1].upper() + text[1:] + "." if text else ""


def plain(text: str) -> str:
    """Text that no reader of Markdown takes for markup, a link or HTML."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    line = re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^[#+>-])", r"\\\1", html.escape(line, quote=False))
    return re.sub(r"(?i)(www|https?)(\.|:)", r"\1&#8203;\2", line)  # what looks like an address stays text too


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """A block of Python."""
    return f"```python\n{text}\n```"
