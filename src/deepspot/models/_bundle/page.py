"""Render a model card as a Markdown page, with metadata for Hugging Face."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.logging import count_of
from deepspot._stats.ceiling import mean_of_ceiling
from deepspot.models._confidence.gate import UNITS

if TYPE_CHECKING:
    from jinja2 import Template

# License identifiers of Hugging Face. It rejects pages with other identifiers.
HUB_LICENSES = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"}
HUB_LICENSES |= {f"cc-{terms}-4.0" for terms in ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd")}
HUB_LICENSES |= {"cc0-1.0", "unknown"}
TAGS = ["deepspot", "spatial-transcriptomics", "histopathology", "pathology", "gene-expression", "biology"]
HUB_PAGE = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")
SHOWN, BEST = 12, 10
# Edges of the histogram of r, and length of its longest bar in characters.
EDGES, BAR = (0.1, 0.2, 0.3, 0.4, 0.5), 30


def front_matter(card: dict[str, Any]) -> str:
    """Return the metadata for Hugging Face in YAML."""
    from huggingface_hub import ModelCardData

    name = re.sub(r"[^a-z0-9.]+", "-", card["license"].lower()).strip("-") or "unknown"
    data = ModelCardData(
        license=name if name in HUB_LICENSES else "other",
        license_name=None if name in HUB_LICENSES else name,
        library_name="deepspot",
        pipeline_tag="other",  # no tag exists for genes from images
        tags=TAGS,
        base_model=_base_model(card),
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def page(card: dict[str, Any], context: Sequence[str], gate: str, where: str = "path/of/the/model") -> str:
    """Render the page of a model: limits, usage, training data, reliability.

    `card` contains the fields of the card, `context` the sets that the model uses, `gate` is the result of the gate as
    text, `where` is the argument of `load`.
    """
    from markupsafe import Markup

    return _template().render(
        card=card,
        context=context,
        gate=gate,
        where=Markup(json.dumps(where)),
        patients=len({slide["patient"] for slide in card["slides"]}),
        base_model=_base_model(card),
        **({} if card["reliability"] is None else _scores(card["genes"], card["reliability"])),
    )


def plain(text: str) -> str:
    """Escape text so that it renders as plain text in Markdown, without markup, links or HTML."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    line = re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^[#>]|^[+-](?!\d))", r"\\\1", html.escape(line, quote=False))
    return re.sub(r"(?i)(www|https?)(\.|:)", r"\1&#8203;\2", line)  # no automatic links


@cache
def _template() -> Template:
    """Load the template, which escapes every text that is inserted."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: Markup(plain(value)) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"SHOWN": SHOWN, "UNITS": UNITS}
    environment.filters |= {
        "thousands": "{:,}".format,
        "count_of": count_of,
        "sentence": lambda text: text and text[:1].upper() + text[1:].rstrip(".") + ".",
    }
    return environment.get_template("page.md.jinja")


def _base_model(card: dict[str, Any]) -> str | None:
    """Return the repository of the encoder on Hugging Face, or None."""
    match = None if card["encoder"] is None else HUB_PAGE.fullmatch(card["encoder"]["url"])
    return match.group(1) if match else None


def _scores(genes: list[str], reliability: dict[str, Any]) -> dict[str, Any]:
    """Return the distribution of r over genes, the best genes, and the median half width of the intervals."""
    n = reliability["r_n"] or [None] * len(genes)
    rows = zip(reliability["r"], genes, reliability["r_low"], reliability["r_high"], n, strict=True)
    best = sorted((row for row in rows if row[0] is not None), key=lambda row: -row[0])
    r = np.array([row[0] for row in best])
    counts = np.bincount(np.digitize(r, EDGES), minlength=len(EDGES) + 1).tolist()
    names = [f"below {EDGES[0]}", *(f"{low} to {high}" for low, high in pairwise(EDGES)), f"above {EDGES[-1]}"]
    columns = ("r", "r_beyond_axis", "r_ceiling")
    by_gene = pd.DataFrame({name: reliability[name] or np.nan for name in columns}, dtype=float)
    widths = [width for width in reliability["half_width"] or () if width is not None]
    return {
        "spread": np.quantile(r, [0.1, 0.5, 0.9]).tolist() if best else None,
        "constant": len(genes) - len(best),
        "histogram": [
            (name, count, "█" * round(BAR * count / max(counts)) or "▏" * (count > 0))
            for name, count in zip(names, counts, strict=True)
            if best
        ],
        "best": best[:BEST],
        "half_width": float(np.median(widths)) if widths else None,
        "beyond": _known(by_gene["r_beyond_axis"].mean()),
        "of_ceiling": _known(mean_of_ceiling(by_gene["r"].to_numpy(), by_gene["r_ceiling"].to_numpy())),
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
