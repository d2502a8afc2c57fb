"""How good a model is, in a few sentences and one distribution."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from deepspot.models._gate import UNITS

from ._markdown import plain, table

if TYPE_CHECKING:
    from deepspot.models._card import ModelCard
    from deepspot.models._reliability import Reliability

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
