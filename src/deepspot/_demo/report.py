"""Figures and facts of the report of the demo; the text is in the template."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot import pl
from deepspot._core.html import decimal, library_versions, render, write_file
from deepspot._core.keys import valid_name
from deepspot._report.figures import draw_r, to_png

from .compare import DETECTED, Difference, summarize, well_measured
from .slides import Slides

if TYPE_CHECKING:
    import pandas as pd

    from deepspot.models import Model

BEST = ("Best", "Second best", "Third best")
CONTENT = ("report.html", "metrics.csv", "figures", "slide.zarr", "model")


def chosen_genes(r: pd.Series) -> list[tuple[str, str]]:
    """Return the genes to draw and how they were chosen: the three with the highest r, and the median one."""
    ranked = r.dropna().sort_values(ascending=False)
    picked = [(str(gene), f"{name} of {len(ranked)} genes") for name, gene in zip(BEST, ranked.index, strict=False)]
    if len(ranked) > len(BEST):
        picked.append((str(ranked.index[len(ranked) // 2]), f"Typical: the median of {len(ranked)} genes"))
    return picked


def draw_figures(slides: Slides, model: Model, scores: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Draw maps of the chosen genes, r per gene and the expected reliability, as files."""
    r, maps = scores["r_deepspot"], []
    for number, (gene, choice) in enumerate(chosen_genes(r), start=1):
        kind = "typical" if choice.startswith("Typical") else f"best_{number}"
        path = folder / f"spatial_{kind}_{valid_name(gene)}.png"
        path.write_bytes(to_png(pl.spatial(slides.test, gene)))
        maps.append({"image": path, "gene": gene, "choice": choice, "r": r[gene]})
    histogram, reliability = folder / "r_per_gene.png", folder / "reliability.png"
    histogram.write_bytes(to_png(draw_r({"DeepSpot": r.dropna(), "tuned ridge": scores["r_ridge"].dropna()})))
    reliability.write_bytes(to_png(pl.reliability(model)))
    return {"maps": maps, "histogram": histogram, "reliability": reliability}


def write_report(
    path: Path,
    slides: Slides,
    model: Model,
    scores: pd.DataFrame,
    paired: Difference,
    *,
    figures: dict[str, Any],
    seconds: dict[str, float],
    command: str,
) -> Path:
    """Write the report."""
    ours, ridge = scores["r_deepspot"], scores["r_ridge"]
    both, chosen = ours.notna() & ridge.notna(), well_measured(scores)
    programs = None
    if "program" in scores:
        means = scores.groupby("program")["r_deepspot"].agg(["count", "mean"]).sort_values("mean", ascending=False)
        programs = [(name, n, decimal(mean, "undefined")) for name, n, mean in means.itertuples()]
    page = render(
        "_demo/demo.html.j2",
        slides=slides,
        card=model.card,
        n_genes=len(scores),
        ours=ours.median(),
        ridge=ridge.median(),
        paired=paired,
        n_higher=int((ours > ridge)[both].sum()),
        n_both=int(both.sum()),
        scores=_score_rows(scores),
        n_detected=len(chosen),
        detected=DETECTED,
        detected_scores=_score_rows(chosen),
        programs=programs,
        seconds=seconds,
        python=platform.python_version(),
        libraries=library_versions(),
        command=command,
        **figures,
    )
    return write_file(path, page)


def _score_rows(scores: pd.DataFrame) -> list[list[str]]:
    """Format one row of a table per system."""
    rows = []
    for name, row in summarize(scores).iterrows():
        r = [decimal(row[key], "undefined") for key in ("mean_r", "median_r")]
        rows.append([str(name), *r, f"{row['undefined']:.0f}", f"{row['median_skill']:.0%}"])
    return rows


def summary(slides: Slides, scores: pd.DataFrame, paired: Difference, seconds: dict[str, float], out: Path) -> str:
    """Format the results for the console."""
    what = (
        "HER2ST sections of one patient" if slides.real else "Synthetic slides, which are no evidence for real tissue"
    )
    lines = [
        "",
        f"{what}: trained on {', '.join(slides.train)}, tested on {slides.name}.",
        f"Pearson r of {len(scores)} genes over {slides.n_spots} test spots:",
        *(f"  {name:<27}mean {mean}   median {median}" for name, mean, median, *_ in _score_rows(scores)),
    ]
    chosen = well_measured(scores)
    if not chosen.empty:
        median = _score_rows(chosen)[0][2]
        lines.append(f"  DeepSpot, {len(chosen)} genes detected in at least 30 % of training spots: median {median}")
    lines.append(f"{paired}.")
    lines.append(f"Took {sum(seconds.values()):.0f} s. Written:")
    return "\n".join([*lines, *(f"  {out / name}" for name in CONTENT)])
