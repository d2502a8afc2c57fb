"""How far the prediction can be trusted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepspot._core.html import figure, table
from deepspot._core.keys import UNS
from deepspot._sdata.tables import check_shared_genes, match_rows
from deepspot._stats.metrics import pearson
from deepspot.models._confidence.ood import MANY_STRANGE

from .figures import draw_r, draw_strange, shot
from .section import Section, attempt, number, paragraph, percent, plural
from .survey import Slide

LISTED = 10
UNCHECKED = "not checked"  # as `ds.tl.correct` says it
USUAL = "about 5 % are on slides like those that the model learnt from"
WORTH = {
    "patients": "on patients whose slides were kept away from the model while it learnt",
    "slides": "on left-out slides of a patient that the model knew; expect less here",
    "blocks": "on left-out parts of a slide that the model knew; expect less here",
}


def trust(slide: Slide, agreement: pd.Series | None) -> Section | None:
    """Spots unlike the training, expected and measured agreement, registration."""
    if slide.prediction is None:
        return None
    images = attempt(slide, "Map of unusual spots", lambda: _strange(slide))
    images += attempt(slide, "Agreement by gene", lambda: _histogram(slide, agreement))
    parts = [
        paragraph(strange_words(slide)),
        paragraph(expected_words(slide)),
        paragraph(agreement_words(slide, agreement)),
        f'<div class="pair">{images}</div>' if images else "",
        _genes(slide, agreement),
        paragraph(registration_words(slide)),
    ]
    return Section("How far to trust it", "".join(parts))


def strange_share(slide: Slide) -> float:
    """Share of the spots that are unlike the training; NaN if that is not known."""
    known = slide.prediction is not None and "ood" in slide.prediction.obs
    return float(slide.prediction.obs["ood"].mean()) if known else float("nan")  # type: ignore[union-attr]


def strange_words(slide: Slide) -> str:
    """How many spots are unlike the training, and what that means."""
    share = strange_share(slide)
    if share != share:
        return "Whether the tissue resembles what the model learnt from was not recorded."
    n = int(slide.prediction.obs["ood"].sum())  # type: ignore[union-attr]
    said = (
        f"{n:,} of {plural(slide.n_spots, 'spot')} ({percent(share)}) look unlike the tissue that the model learnt "
        f"from; {USUAL}."
    )
    if share > MANY_STRANGE:
        return f"{said} This is another tissue, stain or scanner: do not trust the prediction."
    return f"{said} Do not trust single spots that are marked."


def expected_words(slide: Slide) -> str:
    """What r is, and how high it was on tissue that the model had not seen."""
    r = _column(slide, "expected_r").dropna()
    if r.empty:
        return "How well the genes can be predicted was not measured when the model was made."
    source = str(slide.provenance.get("expected_r_from", ""))
    where = next((text for unit, text in WORTH.items() if unit in source), "on tissue kept away from it")
    return (
        "r says how well the pattern of a gene over the slide is met: 1 is the same pattern, 0 is none. Half of the "
        f"{len(r):,} genes reached {number(r.median())} or more {where} ({source}); the best tenth "
        f"{number(r.quantile(0.9))} or more. A map of a gene with a low r may be worth nothing."
    )


def measured_agreement(slide: Slide) -> pd.Series | None:
    """Pearson's r of predicted and measured genes; of `ds.tl.evaluate`, or computed here."""
    if slide.prediction is None or slide.prediction_key is None or slide.measured_key is None:
        return None
    if "pearson" in slide.prediction.var:
        return slide.prediction.var["pearson"].astype(float)
    from deepspot.pl._map.values import measured_values, predicted_values

    genes = list(slide.prediction.var_names)
    try:
        check_shared_genes(genes, slide.sdata.tables[slide.measured_key], slide.measured_key)
        measured = measured_values(slide.sdata, slide.shapes_key, slide.measured_key, genes, layer=slide.layer)
        predicted = predicted_values(slide.sdata, slide.shapes_key, slide.prediction_key, genes)
    except (KeyError, ValueError) as error:
        slide.missing["Comparison with measured genes"] = str(error.args[0])
        return None
    both = np.isfinite(measured).any(axis=1) & np.isfinite(predicted).any(axis=1)
    known = np.isfinite(measured[both]).all(axis=0)
    r = pd.Series(np.nan, index=slide.prediction.var_names)
    if both.sum() > 2 and known.any():
        r[known] = pearson(predicted[both][:, known], measured[both][:, known])
    return r


def agreement_words(slide: Slide, agreement: pd.Series | None) -> str:
    """How well the prediction agrees with what was measured here, and whether that means anything."""
    if slide.measured_key is None:
        return "No genes were measured on this slide, so the prediction cannot be checked here."
    r = pd.Series(dtype=float) if agreement is None else agreement.dropna()
    if r.empty:
        return "The measured genes could not be compared with the predicted ones."
    said = (
        f"On this slide itself, half of the {len(r):,} genes that were also measured agree with r = "
        f"{number(r.median())} or more."
    )
    if slide.learnt_from:
        return f"{said} The model learnt from this very slide, so this number flatters it and proves nothing."
    if slide.card is None:
        return f"{said} That holds only if the model did not learn from this slide or this patient."
    return f"{said} That holds if the model did not learn from this slide: none of its training slides has this name."


def registration_words(slide: Slide) -> str:
    """Whether measured spots lie where the image says, as far as that is known."""
    part = "Check of the registration"
    if slide.measured_key is None:
        return "Whether measured spots lie right in the image is no question here: none were measured."
    made = {} if slide.corrected_key is None else slide.sdata.tables[slide.corrected_key].uns[UNS]
    found = str(made.get("registration", UNCHECKED)) if slide.alignment is None else repr(slide.alignment)
    if found != UNCHECKED:
        return f"Registration of measured spots and image: {found}."
    if slide.learnt_from:
        slide.missing[part] = (
            "The model learnt from this slide, and with it any mistake in where the spots lie. Call "
            "`ds.tl.check_alignment(sdata, model)` with a model that did not."
        )
    else:
        slide.missing[part] = (
            "`ds.tl.check_alignment(sdata, model)` tells whether measured spots lie where the image says; pass what it "
            "returns as `alignment=`."
        )
    return "Whether the measured spots lie where the image says was not checked."


def _column(slide: Slide, name: str) -> pd.Series:
    var = slide.prediction.var  # type: ignore[union-attr]
    return var[name].astype(float) if name in var else pd.Series(np.nan, index=var.index)


def _strange(slide: Slide) -> str:
    score = slide.prediction.obs.get("ood_score")  # type: ignore[union-attr]
    if score is None:
        return ""
    rows, positions = match_rows(slide.prediction, slide.sdata, slide.shapes_key)  # type: ignore[arg-type]
    values = np.full(slide.n_spots, np.nan)
    values[positions] = score.to_numpy(dtype=float)[rows]
    caption = "Dark: unlike the tissue that the model learnt from. Rimmed in orange: too unlike to be trusted."
    return figure(shot(draw_strange(slide, values)), caption)


def _histogram(slide: Slide, agreement: pd.Series | None) -> str:
    values = {"expected": _column(slide, "expected_r").dropna().to_numpy()}
    if agreement is not None:
        values["here (it learnt from this slide)" if slide.learnt_from else "here"] = agreement.dropna().to_numpy()
    values = {name: r for name, r in values.items() if len(r)}
    return figure(shot(draw_r(values)), "Every gene counts once. Dashed: the medians.") if values else ""


def _genes(slide: Slide, agreement: pd.Series | None) -> str:
    expected, low, high = (_column(slide, f"expected_r{end}") for end in ("", "_low", "_high"))
    top = list(expected.dropna().sort_values(ascending=False, kind="stable").index[:LISTED])
    if not top:
        return ""
    head = ["Gene", "expected r", "its 90 % interval"]
    ends = {
        gene: f"{number(low[gene])} to {number(high[gene])}" if low[gene] == low[gene] else "unknown" for gene in top
    }
    rows = [[str(gene), number(expected[gene]), ends[gene]] for gene in top]
    if agreement is not None:
        head.append("r on this slide")
        rows = [[*row, number(float(agreement[gene]))] for row, gene in zip(rows, top, strict=True)]
    few = "Intervals are wide where few patients were there to tell."
    told = f"The {len(top)} genes from which most is to be expected. {few}"
    return paragraph(told) + table(head, rows)
