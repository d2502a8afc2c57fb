"""Which slide this is, and which model predicted."""

from __future__ import annotations

import json
from html import escape

from deepspot._core.html import facts, figure
from deepspot._core.keys import DIAMETER, SCALE, UNS
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._spatial.transforms import pitch_px

from .figures import draw_slide, shot
from .section import Section, plural, words
from .survey import Slide


def about_slide(slide: Slide) -> Section:
    """Image, scale, spots."""
    from deepspot.pl._map.backdrop import place_spots

    spots = place_spots(slide.sdata, slide.image_key, slide.shapes_key)
    height, width = level_sizes(pyramid_levels(slide.sdata, slide.image_key))[0]
    pitch = pitch_px(spots.centers) * spots.mpp if slide.n_spots > 1 else float("nan")
    apart = f", {pitch:.0f} µm apart" if pitch == pitch else ""
    known = DIAMETER in slide.sdata.shapes[slide.shapes_key]
    measured = "none: all genes here are predicted"
    if slide.measured_key is not None:
        table = slide.sdata.tables[slide.measured_key]
        measured = f"{plural(table.n_vars, 'gene')} in {plural(table.n_obs, 'spot')} (table `{slide.measured_key}`)"
    rows = {
        "Spots": f"{slide.n_spots:,}, each a piece of tissue {spots.diameter:.0f} µm across"
        f"{'' if known else ' (its true size is unknown)'}{apart}",
        "Image": f"{width:,} × {height:,} pixels at {spots.mpp:.3g} µm per pixel: "
        f"{width * spots.mpp / 1000:.1f} × {height * spots.mpp / 1000:.1f} mm",
        "Measured genes": measured,
    }
    caption = "The H&E image with the spots, drawn to scale. Every number in this report belongs to one such circle."
    html = figure(shot(draw_slide(slide)), caption) + facts({name: words(text) for name, text in rows.items()})
    return Section("The slide", html)


def about_model(slide: Slide) -> Section | None:
    """Who predicted, and what it learnt from."""
    made = slide.provenance
    if not made or slide.prediction is None:
        return None
    learnt = made.get("tissue") or "tissue that its authors did not name"
    if slide.card is not None and slide.card.slides:
        slides = slide.card.slides
        n_patients = len({part.patient for part in slides})
        learnt += (
            f"; {plural(sum(part.spots for part in slides), 'spot')} of {plural(len(slides), 'slide')} of "
            f"{plural(n_patients, 'patient')}"
        )
    rows = {
        "Model": f"{made.get('model', 'unnamed')}, preset “{made.get('preset', 'unknown')}”",
        "Learnt from": learnt,
        "Predicts": f"{plural(slide.prediction.n_vars, 'gene')}, as {made.get('scale', SCALE)}",
        "Image encoder": _encoder(slide),
        "Held against a simple method": f"{made.get('gate', 'not measured')}",
        "Licence": made.get("licence", "unknown"),
    }
    if slide.card is not None and slide.card.note:
        rows["Note of its authors"] = slide.card.note
    explained = (
        "<p>The model learnt from slides on which both the H&amp;E image and the genes had been measured. Here it was "
        "given the image alone. “Ridge” below is a plain linear method on the same image features: a network that does "
        "not beat it is not used alone.</p>"
    )
    return Section("The model", explained + facts({name: escape(str(text)) for name, text in rows.items()}))


def _encoder(slide: Slide) -> str:
    features = slide.sdata.tables.get(slide.provenance.get("features", ""))
    told = {} if features is None else features.uns.get(UNS, {})
    if "encoder" in told:
        card = json.loads(told["encoder"])
        return f"{card['name']} ({card.get('licence', 'licence unknown')}). {card.get('note', '')}".strip()
    if slide.card is not None and slide.card.encoder is not None:
        return f"{slide.card.encoder.name}. {slide.card.encoder.note}".strip()
    return "unknown"
