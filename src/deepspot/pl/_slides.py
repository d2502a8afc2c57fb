from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import checked
from deepspot._core.logging import track
from deepspot._core.validate import check_count
from deepspot._sdata.tables import find_expression_table, known_genes
from deepspot.cohort._run.folder import Folder
from deepspot.cohort._run.run_table import DONE, read_runs
from deepspot.errors import InputError
from deepspot.io import predicted
from deepspot.models._training.slides import as_mapping

from ._map.panel import GENE_SPAN, bar_length, draw_color_bar, draw_scale_bar, grid_of, is_flat, limits
from ._map.places import Places, find_places
from ._map.values import describe_values, expression_values, ood_spots, shapes_of, training_note, unit_label
from ._style import MISSING, several_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection, PolyCollection
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

COLUMNS = 6
PANEL_INCHES, TITLE_INCHES = 2.1, 6.5
LEAST_INCHES = 3.0
BELOW = 0.2
LONG = 24
NOTES = {
    True: "one color scale for all slides: levels also differ by stain and preparation",
    False: "each slide has a color scale of its own: colors cannot be compared between slides",
}


@dataclass(frozen=True)
class _Map:
    """A gene on one slide: values (n,) of places, NaN without a value."""

    name: str
    values: np.ndarray
    places: Places
    ood: float | None  # share of out-of-distribution spots
    what: str
    unit: str

    @property
    def xy(self) -> np.ndarray:
        """Positions in µm of the places with a value."""
        return self.places.xy[np.isfinite(self.values)]

    @property
    def mean(self) -> float:
        """Mean of the gene."""
        return float(np.nanmean(self.values))


@checked
def slides(
    slides: str | Path | SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    gene: str,
    *,
    n: int = 24,
    shared_scale: bool = True,
    table_key: str | None = None,
    layer: str | None = None,
    cmap: str | Colormap = "viridis",
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot maps of one gene over many slides, by decreasing mean.

    All panels have the same length scale, so the sizes of the tissues can be compared; the scale bar in the first one
    is valid for all. Above a panel are the name of the slide, its number of spots (or cells, or bins), the share of
    these that are out of distribution (OOD), and the mean of the gene. If there are more than `n` slides, `n` of them
    at equal steps of rank are drawn, among them the first and the last, and the title says so. The image is not drawn:
    slides of a cohort are stored without it.

    Parameters
    ----------
    slides
        The folder of :func:`deepspot.cohort.run`, of which one gene of one slide at a time is read; or slides with
        genes, as a list or by name. They are not changed.
    gene
        Name of the gene.
    n
        Maximum number of slides to draw.
    shared_scale
        Use one color scale for all slides, from the 1 to the 99 % quantile of all values. Otherwise each slide has its
        own, and colors show only where on the slide the gene is high.
    table_key
        Table with the gene; by default the one predicted or corrected table, if there is only one.
    layer
        Layer of the table. For a measured table, a layer with raw counts; these are drawn as log1p of counts per
        10,000.
    cmap
        Color map of matplotlib.
    figsize
        Width and height in inches; by default 2.1 inches per panel.
    ax
        Axes to draw into, one for each drawn slide; by default a new figure.

    Returns
    -------
    The axes, by decreasing mean of the gene.

    Raises
    ------
    FileNotFoundError
        If the folder has no run table.
    KeyError
        If a slide does not have the gene or the table.
    ValueError
        If no slide is finished, a slide has no value or no scale in µm, `n` is below 1, or `ax` does not hold one axes
        for each drawn slide.

    References
    ----------
    DeepSpot, figures S3 and S4.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    >>> gene = slides["P1_S1"]["table"].var_names[0]
    >>> len(ds.pl.slides(slides, gene, table_key="table"))
    3
    """
    import matplotlib.pyplot as plt

    check_count(n, "n")
    opened, total = _open(slides, gene, n)
    maps = sorted((_map(name, sdata, gene, table_key, layer) for name, sdata in opened), key=lambda each: -each.mean)
    if len(units := sorted({each.unit for each in maps})) > 1:
        raise InputError(f"The slides are on different scales: {units}. Draw those of one scale together.")
    maps = [maps[rank] for rank in _ranks(len(maps), n)]
    size_um = np.max([np.ptp(each.xy, axis=0) + 2 * each.places.diameter for each in maps], axis=0)
    if ax is None:
        used = grid_of(len(maps), COLUMNS)
        size = figsize or (
            max(PANEL_INCHES * used.shape[1] + 0.9, TITLE_INCHES),
            max((PANEL_INCHES * (1 + BELOW) * size_um[1] / size_um[0] + 0.5) * used.shape[0] + 0.6, LEAST_INCHES),
        )
        figure, grid = plt.subplots(*used.shape, figsize=size, squeeze=False, layout="constrained")
        for panel in grid[~used]:
            panel.set_axis_off()
        count = f"{total} slides" if total == len(maps) else f"{len(maps)} of {total} slides at equal steps of rank"
        figure.suptitle(f"{gene} {maps[0].what}, {count}, by decreasing mean\n{NOTES[bool(shared_scale)]}")
        ax = list(grid[used])
    axes = several_axes(ax, len(maps), "slides")
    everything = np.concatenate([each.values for each in maps])
    for panel, each in zip(axes, maps, strict=True):
        own = limits(each.values, GENE_SPAN)
        shapes = _draw(panel, each, size_um, cmap, limits(everything, GENE_SPAN) if shared_scale else own)
        if not shared_scale and is_flat(each.values):
            shapes.set(array=None, facecolor=MISSING)
        elif not shared_scale:
            draw_color_bar(shapes, panel, each.values, "")
    if shared_scale:
        draw_color_bar(shapes, axes, everything, maps[0].unit)
    draw_scale_bar(axes[0], bar_length(float(size_um[0])))
    return axes


def _open(
    slides: str | Path | SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData], gene: str, n: int
) -> tuple[Iterator[tuple[str, SpatialData]], int]:
    """Return slides with their names, among them the `n` to draw, and the number of all."""
    if not isinstance(slides, str | Path):
        given = as_mapping(slides)
        return iter(given.items()), len(given)
    folder = Path(slides).expanduser()
    runs = read_runs(folder)
    done = list(runs.index[runs["status"] == DONE])
    if not done:
        raise InputError(f"No slide in {str(folder)!r} is finished.")
    # The means of all slides are in the profiles: a large cohort takes half an hour to open.
    means = _means(Folder(folder).pseudobulk, done, gene) if len(done) > n else None
    names = done if means is None else means.index[np.argsort(-means.to_numpy(), kind="stable")[_ranks(len(done), n)]]
    bar = track(names, "Slides", total=len(names), unit="slide")
    return ((name, predicted(Folder(folder).slide(name), genes=[gene])) for name in bar), len(done)


def _means(profiles: Path, names: Sequence[str], gene: str) -> pd.Series | None:
    """Return the mean of a gene on these slides; None if the profiles do not have it, as after an interrupted run."""
    from anndata import read_h5ad

    if not profiles.is_file():
        return None
    stored = read_h5ad(profiles, backed="r")
    with closing(stored.file):
        if gene not in stored.var_names or not set(names) <= set(stored.obs_names):
            return None
        values = np.asarray(stored.X[:, stored.var_names.get_loc(gene)])
    return pd.Series(values, index=stored.obs_names)[list(names)]


def _ranks(total: int, n: int) -> np.ndarray:
    """Return at most `n` of so many ranks, at equal steps, with the first and the last."""
    return np.unique(np.linspace(0, total - 1, min(n, total)).round().astype(int))


def _map(name: str, sdata: SpatialData, gene: str, table_key: str | None, layer: str | None) -> _Map:
    try:
        key = find_expression_table(sdata, table_key)
        known_genes(gene, sdata, [key])
        shapes_key = shapes_of(sdata, key, None)
        values = expression_values(sdata, shapes_key, key, [gene], layer=layer)[:, 0]
        places = find_places(sdata, None, shapes_key)
    except (KeyError, ValueError) as error:
        error.add_note(f"This happened on slide {name!r}.")
        raise
    known = np.isfinite(values)
    if not known.any():
        raise InputError(f"No spot of slide {name!r} has a value of {gene!r}. Leave the slide out.")
    ood = ood_spots(sdata, shapes_key, key)
    what, unit = describe_values(sdata, key, layer), unit_label(sdata, key, layer)
    share = None if ood is None else float(ood[known].mean())
    return _Map(f"{name}{training_note(sdata, key)}", values, places, share, what, unit)


def _draw(
    ax: Axes, each: _Map, size_um: np.ndarray, cmap: str | Colormap, clim: tuple[float, float]
) -> EllipseCollection | PolyCollection:
    """Draw places in the middle of a rectangle of this width and height in µm."""
    low, high = each.xy.min(axis=0), each.xy.max(axis=0)
    (left, top), (right, bottom) = ((low + high + sign * size_um) / 2 for sign in (-1, 1))
    # Room for the scale bar below the places.
    ax.set(xlim=(left, right), ylim=(bottom + BELOW * size_um[1], top), aspect="equal")
    shapes = each.places.draw(ax, each.values, clim=clim, cmap=cmap)
    name = shorten(each.name, LONG, placeholder="…") if " " in each.name else each.name
    name = name if len(name) <= LONG else f"{name[: LONG - 1]}…"
    ood = "" if each.ood is None else f", {each.ood:.0%} OOD"
    ax.set_title(f"{name}\n{each.places.noun.count(len(each.xy))}{ood}, mean {each.mean:.2f}", fontsize="small")
    ax.set_axis_off()
    return shapes
