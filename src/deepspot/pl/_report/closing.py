"""Correction, limits, what was not done, and how it all was made."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from typing import Any

import numpy as np

from deepspot._core.html import facts, figure
from deepspot._core.keys import UNS
from deepspot._sdata.tables import match_rows

from .figures import draw_change, shot
from .section import Section, attempt, paragraph, percent, plural, words
from .survey import Slide

LIBRARIES = ("deepspot", "spatialdata", "anndata", "scanpy", "torch", "numpy")
METHODS = {
    "posterior": "each measured value is mixed with the predicted one, the more so the fewer counts it rests on",
    "replace": "the measurement is replaced by the prediction",
}
LIMITS = (
    "<b>For research. This is no medical device</b>, and nothing here may guide a diagnosis or a treatment.",
    "Unless a panel says “measured”, genes are <b>predicted</b>: guessed from how the tissue looks, by a model that "
    "learnt from slides on which they were measured. What cannot be seen in the image cannot be predicted.",
    "One value stands for one whole spot and all the cells in it. Nothing here resolves single cells.",
    "On tissue, stains or scanners that the model did not learn from, its prediction is worth little; see below.",
)


def limits() -> str:
    """Box at the top of the report."""
    return '<div class="limits">' + "".join(f"<p>{line}</p>" for line in LIMITS) + "</div>"


def correction(slide: Slide) -> Section | None:
    """What became of the measured genes, if they were corrected."""
    if slide.corrected_key is None:
        if slide.measured_key is not None:
            slide.missing["Correction of measured genes"] = (
                "`ds.tl.correct(sdata, model)` denoises shallow counts, or replaces misplaced ones."
            )
        return None
    table = slide.sdata.tables[slide.corrected_key]
    made = table.uns[UNS]
    known = np.isfinite(np.asarray(table.layers["predicted"])).all(axis=0)
    weight = np.asarray(table.layers["weight"])[:, known].mean(axis=0)
    change = np.abs(np.asarray(table.layers["change"])[:, known])
    method = str(made.get("method", "unknown"))
    rows = {
        "Method": f"{method}: {METHODS[method]}" if method in METHODS else method,
        "Corrected": f"{plural(int(known.sum()), 'gene')} that the model predicts",
    }
    if not known.all():
        rows["Left as measured"] = plural(int((~known).sum()), "gene")
    if known.any():
        low, middle, high = np.quantile(weight, [0.1, 0.5, 0.9])
        rows["Share of the measurement"] = (
            f"{percent(middle)} in the median gene; {percent(low)} to {percent(high)} in four fifths of the genes"
        )
        rows["Change"] = f"{np.nanmean(change):.2f} on average, on the log scale, up or down"
    if "registration" in made:
        rows["Registration"] = str(made["registration"])
    if slide.learnt_from and made.get("fingerprint") == slide.provenance.get("fingerprint"):
        rows["Caution"] = "The model learnt from this very slide, so its prediction holds some of the measured noise"
    drawn = attempt(slide, "Map of the correction", lambda: _change(slide, change)) if known.any() else ""
    told = paragraph(
        "Measured counts were corrected with the prediction. A corrected value is partly predicted: its agreement with "
        "the prediction proves nothing."
    )
    return Section("Correction of the measured genes", told + facts({k: escape(v) for k, v in rows.items()}) + drawn)


def not_done(slide: Slide, notes: Mapping[str, str]) -> Section | None:
    """Parts that this report could have had, and how to get them."""
    missing = slide.missing | dict(notes)
    if not missing:
        return None
    return Section("What was not done, and how to do it", facts({part: words(why) for part, why in missing.items()}))


def provenance(slide: Slide, command: str | None) -> Section:
    """Versions, parameters, fingerprints."""
    made = slide.provenance
    libraries = _versions({name: version(name) for name in LIBRARIES})
    rows = {"Report": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {libraries}"}
    if made:
        rows["Prediction"] = (
            f"table `{slide.prediction_key}`, model {made.get('model', 'unnamed')}, fingerprint "
            f"{made.get('fingerprint', 'unknown')}, counts over {made.get('depth', 'unknown genes')}"
        )
        rows["Model made with"] = _versions(made.get("versions", {})) or "unknown"
    for key in (slide.corrected_key, slide.prediction_key, slide.measured_key):
        if key is not None:
            for name, settings in slide.sdata.tables[key].uns.items():
                if str(name).startswith("deepspot_") and isinstance(settings, Mapping):
                    rows[f"{str(name).removeprefix('deepspot_').capitalize()} ({key})"] = _listed(settings)
    if command is not None:
        rows["Command"] = f"`{command}`"
    return Section("How it was made", facts({name: words(text) for name, text in rows.items()}))


def _change(slide: Slide, change: np.ndarray) -> str:
    rows, positions = match_rows(slide.sdata.tables[str(slide.corrected_key)], slide.sdata, slide.shapes_key)
    values = np.full(slide.n_spots, np.nan)
    values[positions] = change.mean(axis=1)[rows]
    return figure(shot(draw_change(slide, values)), "How much the correction moved the genes of a spot, on average.")


def _versions(libraries: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(libraries.items()))


def _listed(settings: Mapping[str, Any]) -> str:
    """Settings as text; long lists are cut."""
    told = []
    for name, value in settings.items():
        text = str(list(value) if isinstance(value, np.ndarray) else value)
        told.append(f"{name} = {text if len(text) <= 120 else text[:117] + '…'}")
    return "; ".join(told)
