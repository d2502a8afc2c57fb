"""Text of llms.txt (https://llmstxt.org): what the package is, and one line for each page of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

SUMMARY = (
    "Predict spatial transcriptomics from H&E images in Python (`import deepspot as ds`). Functions take a SpatialData "
    "and add tables of predicted genes to it. Predictions are log1p of counts per 10,000, for spots and not for cells. "
    "For research use only."
)


def llms_text(docs: Path) -> str:
    """Return the text, with the pages of the table of contents under their captions and links to their sources."""
    lines = ["# deepspot", "", f"> {SUMMARY}"]
    for options, pages in toctrees(docs / "index.md"):
        caption = re.search(r":caption: (.*)", options)
        lines += ["", f"## {caption.group(1) if caption else 'Pages'}", ""]
        lines += [entry(docs, page) for page in pages]
        if "api" in pages:
            lines += [entry(docs, page) for _, below in toctrees(docs / "api.md") for page in below]
    return "\n".join(lines) + "\n"


def toctrees(page: Path) -> list[tuple[str, list[str]]]:
    """Return the options and the pages of each table of contents in a page."""
    found = re.findall(r"^```\{toctree\}\n((?::[^\n]*\n)*)(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [(options, pages.split()) for options, pages in found]


def entry(docs: Path, page: str) -> str:
    """Return the line of a page: a link with its title, and its first sentence."""
    path = next(path for path in (docs / f"{page}.md", docs / f"{page}.ipynb") if path.exists())
    title, sentence = title_and_sentence(markdown(path))
    return f"- [{title}](_sources/{page}{path.suffix}.txt)" + (f": {sentence}" if sentence else "")


def markdown(path: Path) -> str:
    """Return the Markdown of a page, or of the text cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return "\n\n".join("".join(cell["source"]) for cell in cells)
    included = re.match(r"```\{include\} (.*)\n", text)
    return markdown((path.parent / included.group(1)).resolve()) if included else text


def title_and_sentence(text: str) -> tuple[str, str]:
    """Return the first heading and the first sentence of the first paragraph, without Markdown."""
    heading = re.search(r"^# (.*)$", text, re.M)
    after = text[heading.end() :] if heading else text
    after = re.sub(r"^(```|:::).*?^\1\s*$", "", after, flags=re.M | re.S)
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", after)]
    prose = next((part for part in paragraphs if re.match(r"[A-Za-z*`{\[]", part) and "\n|" not in part), "")
    plain = re.sub(r"\{[\w:]+\}`~?([^`<]*?)\s*(?:<[^`]*>)?`", r"\1", " ".join(prose.split()))
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*]{2}", lambda m: m.group(1) or "", plain)
    sentence = re.match(r"(.*?[.:])(?:\s|$)", plain)
    return heading.group(1) if heading else "", (sentence.group(1) if sentence else plain).rstrip(":")
