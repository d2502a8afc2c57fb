"""Facts and figures of the report of a cohort."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.html import library_versions
from deepspot._core.keys import LEARNED, UNS
from deepspot._core.logging import only_warnings, track
from deepspot._core.validate import check_genes
from deepspot.cohort._run.attention import LEAST_SLIDES, MANY_ARTIFACTS, UNUSUAL, needs_attention, profile_scores
from deepspot.cohort._run.folder import Folder
from deepspot.cohort._run.run_table import DONE, FAILED, read_runs
from deepspot.cohort._run.slide import TABLE
from deepspot.errors import InputError
from deepspot.io._predicted import predicted
from deepspot.models._confidence.ood import MANY_OOD
from deepspot.pl._map.panel import GENE_SPAN, draw_panel, limits

from .figures import to_jpeg

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.pl._map.backdrop import Backdrop

THUMBNAIL_PX, CARD_INCHES = 500, 2.6


@dataclass(frozen=True, eq=False)
class _Slide:
    """One gene on a slide: values (n,) of its spots, their `ood` (n,), and the image unless it is gone."""

    name: str
    sdata: SpatialData
    values: np.ndarray
    ood: np.ndarray | None
    no_image: str | None  # the reason

    @property
    def learned(self) -> bool:
        """Whether the model is known to have learned from the slide."""
        return bool(self.sdata.tables[TABLE].uns[UNS].get(LEARNED) == "yes")


def gather(folder: Path, gene: str | None, n: int) -> dict[str, Any]:
    """Return the facts of the report."""
    paths = Folder(folder)
    runs = read_runs(folder)
    profiles = _profiles(paths)
    gene = _choose_gene(gene, paths, runs, profiles)
    runs["z"] = profile_scores(profiles, runs)
    attention = needs_attention(runs, runs["z"])
    done = runs.index[runs["status"] == DONE]
    drawn = [name for name in (*attention, *(name for name in done if name not in attention)) if name in done][:n]
    slides = [_open(paths, name, str(gene)) for name in track(drawn, "Slides", total=len(drawn), unit="slide")]
    for slide in slides:
        if slide.no_image is not None:
            attention.setdefault(slide.name, []).append(slide.no_image)
    values = np.concatenate([slide.values for slide in slides]) if slides else np.empty(0)
    ends = limits(values, GENE_SPAN)
    model = dict(slides[0].sdata.tables[TABLE].uns[UNS]) if slides else {}
    return {
        "runs": runs,
        "gene": gene,
        "model": model,
        "expected_r": _expected_r(slides, gene),
        "attention": attention,
        "cards": [
            {"slide": runs.loc[slide.name], "learned": slide.learned, "image": _draw(slide, ends)} for slide in slides
        ],
        "scale_image": _draw_scale(ends, str(model.get("scale", ""))) if slides else None,
        "many_ood": MANY_OOD,
        "many_artifacts": MANY_ARTIFACTS,
        "unusual": UNUSUAL,
        "least_slides": LEAST_SLIDES,
        "profiled": bool(runs["z"].notna().any()),
        "looked_for_artifacts": bool(runs["artifact_share"].notna().any()),
        "folder": folder.resolve(),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "libraries": library_versions(),
        "counts": {status: int((runs["status"] == status).sum()) for status in (DONE, FAILED)},
    }


def _profiles(paths: Folder) -> AnnData | None:
    """Return the profiles of the finished slides; None before the end of the first run."""
    from anndata import read_h5ad

    return read_h5ad(paths.pseudobulk) if paths.pseudobulk.is_file() else None


def _choose_gene(gene: str | None, paths: Folder, runs: pd.DataFrame, profiles: AnnData | None) -> str | None:
    """Return the gene to draw; None if no slide is finished."""
    done = runs.index[runs["status"] == DONE]
    if not len(done):
        return None
    var = predicted(paths.slide(done[0])).tables[TABLE].var if profiles is None else profiles.var
    if gene is not None:
        return check_genes([gene], var.index, "the model")[0]
    expected = var["expected_r"].astype(float) if "expected_r" in var else pd.Series(np.nan, index=var.index)
    return str(expected.fillna(-1).idxmax())


def _open(paths: Folder, name: str, gene: str) -> _Slide:
    """Open a slide with one gene, and its image if it is where it was."""
    store, no_image = paths.slide(name), None
    with only_warnings(name):
        try:
            sdata = predicted(store, genes=[gene], image=True)
        except (FileNotFoundError, InputError) as error:
            sdata, no_image = predicted(store, genes=[gene]), f"drawn without its image. {error}"
    table = sdata.tables[TABLE]
    ood = table.obs["ood"].to_numpy(dtype=bool) if "ood" in table.obs else None
    return _Slide(name, sdata, np.asarray(table.X)[:, 0], ood, no_image)


def _expected_r(slides: list[_Slide], gene: str | None) -> float:
    """Return the expected r of the gene, NaN if it is unknown."""
    var = slides[0].sdata.tables[TABLE].var if slides else pd.DataFrame()
    return float(var.loc[gene, "expected_r"]) if "expected_r" in var else float("nan")


def _draw(slide: _Slide, ends: tuple[float, float]) -> bytes:
    """Draw the image of a slide beside the map of the gene."""
    import matplotlib.pyplot as plt

    from deepspot.pl._map.backdrop import backdrop_of
    from deepspot.pl._map.places import find_places

    (shapes_key,) = slide.sdata.shapes
    image_key = next(iter(slide.sdata.images), None)
    places = find_places(slide.sdata, image_key, shapes_key)
    backdrop = _blank(places.xy, places.diameter) if image_key is None else backdrop_of(slide.sdata, image_key, places)
    aspect = backdrop.pixels.shape[0] / backdrop.pixels.shape[1]
    width = CARD_INCHES * min(1.0, 1.4 / aspect)
    _, axes = plt.subplots(1, 2, figsize=(2 * width, width * aspect + 0.1), layout="constrained")
    axes[0].imshow(backdrop.pixels, extent=backdrop.extent)
    axes[0].set_axis_off()
    options: dict[str, Any] = {"cmap": "viridis", "clim": ends, "ood": slide.ood, "alpha": 0.25}
    draw_panel(axes[1], slide.values, places, backdrop, title="", **options)
    axes[1].set_title("")  # the text of the card has the numbers
    return to_jpeg(axes[0])


def _blank(xy: np.ndarray, diameter: float) -> Backdrop:
    """Return a white image around the spots."""
    from deepspot.pl._map.backdrop import Backdrop

    (left, top), (right, bottom) = xy.min(axis=0) - 2 * diameter, xy.max(axis=0) + 2 * diameter
    height = max(2, round(THUMBNAIL_PX * (bottom - top) / (right - left)))
    return Backdrop(np.full((height, THUMBNAIL_PX, 3), 255, np.uint8), (left, right, bottom, top))


def _draw_scale(ends: tuple[float, float], label: str) -> bytes:
    """Draw the color scale of all maps."""
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, ax = plt.subplots(figsize=(4, 0.65), layout="constrained")
    figure.colorbar(ScalarMappable(Normalize(*ends), "viridis"), cax=ax, orientation="horizontal", label=label)
    return to_jpeg(ax)
