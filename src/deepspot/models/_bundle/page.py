"""A model card as a page for people, in Markdown, with metadata for Hugging Face on top."""

from __future__ import annotations

import html
import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot.models._confidence.gate import UNITS

if TYPE_CHECKING:
    from jinja2 import Template

# Licenses that Hugging Face knows; it refuses a page that names another one.
HUB_LICENSES = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"}
HUB_LICENSES |= {f"cc-{terms}-4.0" for terms in ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd")}
HUB_LICENSES |= {"cc0-1.0", "unknown"}
TAGS = ["deepspot", "spatial-transcriptomics", "histopathology", "pathology", "gene-expression", "biology"]
HUB_PAGE = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")
SHOWN, BEST = 12, 10
# Of r in the histogram, and the length of its longest bar in characters.
EDGES, BAR = (0.1, 0.2, 0.3, 0.4, 0.5), 30


def front_matter(card: dict[str, Any]) -> str:
    """Metadata for Hugging Face, in YAML."""
    from huggingface_hub import ModelCardData

    name = re.sub(r"[^a-z0-9.]+", "-", card["license"].lower()).strip("-") or "unknown"
    data = ModelCardData(
        license=name if name in HUB_LICENSES else "other",
        license_name=None if name in HUB_LICENSES else name,
        library_name="deepspot",
        pipeline_tag="other",  # there is none for genes from images
        tags=TAGS,
        base_model=_base_model(card),
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def page(card: dict[str, Any], gate: str, where: str = "path/of/the/model") -> str:
    """What a pathologist has to know before using a model, and how to load it from `where`.

    `card` are the fields of the card, and `gate` is what the gate found, in words.
    """
    from markupsafe import Markup

    return _template().render(
        card=card,
        gate=gate,
        where=Markup(json.dumps(where)),
        patients=len({slide["patient"] for slide in card["slides"]}),
        base_model=_base_model(card),
        **({} if card["reliability"] is None else _scores(card["genes"], card["reliability"])),
    )


def plain(text: str) -> str:
    """Escape text so that no reader of Markdown takes it for markup, a link or HTML."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    line = re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^[#>]|^[+-](?!\d))", r"\\\1", html.escape(line, quote=False))
    return re.sub(r"(?i)(www|https?)(\.|:)", r"\1&#8203;\2", line)  # what looks like an address stays text too


@cache
def _template() -> Template:
    """The page with blanks, in which every text that is filled in is escaped."""
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
        "count_of": lambda number, what: f"{number:,} {what}{'s' * (number != 1)}",
        "sentence": lambda text: text and text[:1].upper() + text[1:].rstrip(".") + ".",
    }
    return environment.get_template("page.md.jinja")


def _base_model(card: dict[str, Any]) -> str | None:
    """Repository of the encoder on Hugging Face."""
    found = None if card["encoder"] is None else HUB_PAGE.fullmatch(card["encoder"]["url"])
    return found.group(1) if found else None


def _scores(genes: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """How r is spread over genes, the genes with the highest, and the median half width of the intervals."""
    rows = zip(known["r"], genes, known["r_low"], known["r_high"], strict=True)
    best = sorted((row for row in rows if row[0] is not None), key=lambda row: -row[0])
    r = np.array([row[0] for row in best])
    counts = np.bincount(np.digitize(r, EDGES), minlength=len(EDGES) + 1).tolist()
    names = [f"below {EDGES[0]}", *(f"{low} to {high}" for low, high in pairwise(EDGES)), f"above {EDGES[-1]}"]
    widths = [width for width in known["half_width"] or () if width is not None]
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
    }
