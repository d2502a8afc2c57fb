from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from deepspot._core.html import page
from deepspot.models._confidence.ood import MANY_STRANGE

from .about import about_model, about_slide
from .closing import correction, limits, not_done, provenance
from .genes import genes
from .groups import groups, pathways
from .section import Section, number, percent, plural
from .survey import Slide, Wishes, survey
from .trust import measured_agreement, strange_share, trust

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot
    from deepspot.tl._alignment.align import Alignment

STYLE = """
  h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
  nav { margin: 1rem 0; color: var(--soft); }
  nav a { color: var(--blue); }
  .text th, .text td { text-align: left; vertical-align: top; }
  @media print { body { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } nav { display: none; } }
"""


def build_report(
    sdata: SpatialData,
    wishes: Wishes,
    *,
    model: DeepSpot | None = None,
    alignment: Alignment | None = None,
    title: str | None = None,
    notes: Mapping[str, str] | None = None,
    command: str | None = None,
) -> str:
    """Write the page.

    Parameters
    ----------
    sdata
        The slide.
    wishes
        What to report.
    model
        The model that predicted, if it is at hand.
    alignment
        Where the measured spots lie.
    title
        Name of the slide for people.
    notes
        Why parts are missing, by heading.
    command
        How to do it again.
    """
    slide = survey(sdata, wishes, model, alignment)
    if slide.prediction is None:
        slide.missing["Predicted genes"] = "`ds.tl.predict(sdata, model)` predicts them from the image."
    agreement = measured_agreement(slide)
    sections: list[Section | None] = [
        about_slide(slide), about_model(slide), trust(slide, agreement), genes(slide, chosen=wishes.genes is not None),
        groups(slide), pathways(slide), correction(slide),
    ]  # fmt: skip
    sections += [not_done(slide, notes or {}), provenance(slide, command)]
    there = [section for section in sections if section is not None]
    links = " · ".join(f'<a href="#part{n}">{escape(part.heading)}</a>' for n, part in enumerate(there, start=1))
    body = [f'<p class="lead">{escape(_lead(slide, agreement))}</p>', limits(), f"<nav>{links}</nav>"]
    body += [f'<h2 id="part{n}">{escape(part.heading)}</h2>\n{part.html}' for n, part in enumerate(there, start=1)]
    return page(escape(f"Slide {title or slide.name}: {_what(slide)}"), "\n".join(body) + "\n", style=STYLE)


def _what(slide: Slide) -> str:
    if slide.prediction is not None:
        return "genes predicted from the H&E image"
    return "genes corrected with the H&E image" if slide.corrected_key is not None else "no genes predicted yet"


def _lead(slide: Slide, agreement: pd.Series | None) -> str:
    """The finding in a few sentences."""
    if slide.prediction is None:
        return f"This slide has {plural(slide.n_spots, 'spot')}. No genes were predicted from its image."
    made, share = slide.provenance, strange_share(slide)
    said = [
        f"{plural(slide.prediction.n_vars, 'gene')} were predicted from the image in {plural(slide.n_spots, 'spot')} "
        f"by model “{made.get('model', 'unnamed')}”, which learnt from {made.get('tissue') or 'unnamed tissue'}."
    ]
    if share > MANY_STRANGE:
        said.append(f"{percent(share)} of the spots look unlike what it learnt from: do not trust this prediction.")
    elif share == share:
        said.append(f"{percent(1 - share)} of the spots look like what it learnt from.")
    expected = slide.prediction.var.get("expected_r")
    if expected is not None and expected.notna().any() and not share > MANY_STRANGE:
        said.append(f"Half of the genes can be expected to reach r = {number(float(expected.median()))} or more.")
    if agreement is not None and agreement.notna().any():
        flattered = " (which the model learnt from)" if slide.learnt_from else ""
        said.append(f"On this slide{flattered} half of them reach {number(float(agreement.median()))}.")
    return " ".join(said)
