"""What the report says in plain words, for real and for synthetic slides."""

from __future__ import annotations

from html import escape
from math import isnan
from typing import TYPE_CHECKING

from .compare import DETECTED

if TYPE_CHECKING:
    import pandas as pd

    from deepspot.models import Gate, ModelCard

    from .data import Slides

SOURCE = (
    "HER2-positive breast cancer, Spatial Transcriptomics: Andersson et al., Nature Communications 12, 6012 (2021), "
    '<a href="https://doi.org/10.1038/s41467-021-26271-2">doi 10.1038/s41467-021-26271-2</a>, CC BY 4.0'
)


def number(value: float) -> str:
    """A number of the report, which may be undefined."""
    return "undefined" if isnan(value) else f"{value:.2f}"


def title(slides: Slides) -> str:
    """Headline."""
    what = "a breast cancer section" if slides.real else "synthetic slides"
    return f"Genes predicted from the H&amp;E image: {'a try on ' if not slides.real else ''}{what}"


def lead(slides: Slides, n_genes: int) -> str:
    """What was done, in three sentences."""
    n_spots = len(slides.test.shapes["spots"])
    *others, last = slides.train
    names = f"{', '.join(others)} and {last}" if others else last
    what = f"breast cancer sections {names}" if slides.real else f"synthetic slides {names}, each of another patient,"
    unseen = f"section {slides.name}" if slides.real else f"slide {slides.name} of yet another patient"
    return (
        f"A model learnt from {what} how the H&amp;E image and the measured genes go together. Then it was given only "
        f"the image of {unseen}, and predicted {n_genes} genes in each of its {n_spots} spots. "
        "Here is how that compares with what had been measured there."
    )


def limits(slides: Slides) -> str:
    """What the numbers do not say."""
    if slides.real:
        lines = [
            "<b>All three sections come from one patient</b> and are near-replicates of one another. This page shows "
            "that the software learns; it is no evidence for other patients, where the agreement has to be expected "
            "to be clearly lower.",
            "A spot is 100 µm wide and holds dozens of cells: nothing here resolves single cells.",
        ]
    else:
        lines = [
            "<b>These slides are drawn by a computer</b>, and so are their genes: the numbers say that the software "
            "works, and nothing about real tissue.",
            f"Synthetic slides were used because {escape(slides.why_toy)}",
        ]
    return "".join(f"<p>{line}</p>" for line in [*lines, "Not for diagnostic use."])


def result(scores: pd.DataFrame) -> str:
    """The outcome, also where it disappoints."""
    ours, ridge = scores["r_deepspot"], scores["r_ridge"]
    both = ours.notna() & ridge.notna()
    ahead = int((ours > ridge)[both].sum())
    verdict = "ahead of" if ours.median() > ridge.median() else "not ahead of"
    return (
        f"Half of the {len(scores)} genes reach r = {number(ours.median())} or more. DeepSpot is {verdict} a "
        f"well-tuned ridge regression on the same image features, whose median is {number(ridge.median())}: it has the "
        f"higher r on {ahead} of {int(both.sum())} genes. Genes that were found in few spots are mostly noise, and no "
        "image can predict noise."
    )


def detected(n_genes: int) -> str:
    """What the second table shows."""
    return (
        f"The same on the {n_genes} of these genes that were found in at least {DETECTED:.0%} of the spots that the "
        "model learnt from: enough counts for a pattern to show."
    )


def gate(found: Gate) -> str:
    """Caption of what the model expected of itself."""
    return (
        f"What was to be expected, found on the training slides alone, by leaving {found.unit} out in turn. Ridge was "
        f"fitted beside the network: {escape(str(found))}."
    )


def who_predicts(card: ModelCard) -> str:
    """Network, ridge or both."""
    networks = f"{card.network.members} networks averaged, {card.epochs} epochs"
    weight = card.gate.weight if card.gate else 1.0
    if weight == 0:
        return "tuned ridge, as a network beside it gained nothing"
    return networks if weight == 1 else f"a blend of {weight:.0%} network ({networks}) and tuned ridge"


def programs(scores: pd.DataFrame) -> str:
    """On toy slides the answer is known: r by what a gene follows."""
    if "program" not in scores:
        return ""
    means = scores.groupby("program")["r_deepspot"].agg(["count", "mean"]).sort_values("mean", ascending=False)
    rows = "".join(f"<tr><td>{escape(str(n))}</td><td>{r['count']:.0f}</td><td>{number(r['mean'])}</td></tr>"
                   for n, r in means.iterrows())  # fmt: skip
    return (
        "<p>What every gene follows is known here. Those called <i>noise</i> follow nothing that the image shows, so a "
        "sound model must come out near 0 on them:</p>"
        f"<table><tr><th>The gene follows</th><th>genes</th><th>mean r, DeepSpot</th></tr>{rows}</table>"
    )
