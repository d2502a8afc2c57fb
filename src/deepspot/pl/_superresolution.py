from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import PREDICTION, UNS, checked, grid_name, keys_in, subspots_name
from deepspot._sdata.tables import known_genes, tables_of_kind
from deepspot._sdata.view import select_image_and_shapes
from deepspot._spatial.transforms import share_coordinate_system
from deepspot.errors import InputError, MissingKeyError

from ._map.backdrop import backdrop_of
from ._map.panel import GENE_SPAN, draw_color_bar, draw_panel, grid_of, is_flat, limits, map_axes, span_text
from ._map.places import find_places
from ._map.values import ood_spots, predicted_values, prediction_table_key, shapes_of, training_note, unit_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

PANEL_INCHES = 4.6


@checked
def superresolution(
    sdata: SpatialData,
    gene: str,
    *,
    prediction_key: str | None = None,
    fine_key: str | Sequence[str] | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    cmap: str | Colormap = "viridis",
    image_alpha: float = 0.5,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot predicted expression of a gene for spots and for sub-spots, a grid or cells, next to the H&E image.

    All maps share one color scale, which covers at least one log unit, so small differences have similar colors. The
    titles give the span of the values from the 1 to the 99 % quantile. Places that are out of distribution
    (``obs["ood"]``) have an orange outline and are counted in the title. Cells, nuclei and bins are drawn as they are.

    The finer maps are predictions of a model trained on measurements of whole spots: they show where within a spot the
    tissue resembles tissue with high expression, and do not replace a measurement at this resolution. They do not show
    the expression of single cells, also where the places are cells: see :func:`deepspot.tl.evaluate_resolution`.

    Parameters
    ----------
    sdata
        Object with results of :func:`deepspot.tl.predict` with its default `resolution`, and with ``"subspot"``,
        ``"grid"`` or ``"cell"``. It is not changed.
    gene
        Name of the gene.
    prediction_key
        Table with the predicted genes of the spots; needed only if there are several.
    fine_key
        One or more tables with finer predictions; by default the existing ones of ``<shapes>_subspots``,
        ``<shapes>_grid`` and of cells.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    cmap
        Color map of matplotlib.
    image_alpha
        Opacity of the image under the maps, from 0 to 1.
    figsize
        Width and height in inches; by default 5 inches per map.
    ax
        Axes to draw into: for the image, the spots and each finer table; by default a new figure.

    Returns
    -------
    The axes: the image alone, the spots, then each finer table. They are in µm; ``ax.set_xlim`` and ``ax.set_ylim``
    zoom in, on all axes of a new figure at once.

    Raises
    ------
    KeyError
        If there is no finer prediction, it lacks the gene, or a table, image or shapes element does not exist.
    ValueError
        If there are several candidates for an element, the gene is constant, or `ax` does not hold one axes for each
        panel.

    References
    ----------
    DeepSpot, section 4.4.7 and figure 5D.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.tl.predict(sdata)
    >>> ds.tl.predict(sdata, resolution="subspot")
    >>> len(ds.pl.superresolution(sdata, "FASN"))
    3
    """
    image_key, shapes_key = select_image_and_shapes(sdata, image_key, shapes_key)
    prediction_key = prediction_table_key(sdata, shapes_key, prediction_key)
    layers = [(prediction_key, shapes_key), *_finer(sdata, image_key, shapes_key, fine_key)]
    for key, _ in layers:
        (gene,) = known_genes(gene, sdata, [key])
    values = [predicted_values(sdata, shapes, key, [gene])[:, 0] for key, shapes in layers]
    places = [find_places(sdata, image_key, shapes) for _, shapes in layers]
    everything = np.concatenate(values)
    if is_flat(everything):
        raise InputError(f"{gene} is constant ({everything.mean():.2f} everywhere), so it has no pattern to draw.")

    backdrop = backdrop_of(sdata, image_key, places[0])
    n = len(layers) + 1
    used = grid_of(n, n if n < 4 else 2)
    tissue, *maps = axes = map_axes(ax, used, backdrop, inches=PANEL_INCHES, figsize=figsize, together=True)
    draw_panel(tissue, np.full(len(values[0]), np.nan), places[0], backdrop, cmap=cmap, alpha=1, title="H&E image")
    for panel, (key, shapes), value, each in zip(maps, layers, values, places, strict=True):
        n = int(np.isfinite(value).sum())  # not all shapes are predicted: nuclei outside of spots
        title = f"{gene} predicted, {each.noun.count(n)} of {each.size}{training_note(sdata, key)}"
        last = draw_panel(
            panel,
            value,
            each,
            backdrop,
            cmap=cmap,
            alpha=image_alpha,
            title=title,
            detail=span_text(value),
            clim=limits(everything, GENE_SPAN),
            ood=ood_spots(sdata, shapes, key),
        )
    draw_color_bar(last, axes, everything, unit_label(sdata, prediction_key))
    return axes


def finer_shapes(sdata: SpatialData, image_key: str, shapes_key: str) -> list[str]:
    """Return the names of the sub-spots and the grid of shapes, and of predicted cells in the same image."""
    made = [name for name in (subspots_name(shapes_key), grid_name(shapes_key)) if name in sdata.shapes]
    cells = [
        name
        for name in sdata.shapes
        if name not in (shapes_key, *made) and share_coordinate_system(sdata, image_key, name)
        if any(
            sdata.tables[key].uns[UNS].get("resolution") == "cell" for key in tables_of_kind(sdata, name, PREDICTION)
        )
    ]
    return made + cells


def _finer(
    sdata: SpatialData, image_key: str, shapes_key: str, keys: str | Sequence[str] | None
) -> list[tuple[str, str]]:
    """Return the names of the tables with finer predictions, and of their shapes."""
    if keys is not None:
        finer = [(key, shapes_of(sdata, key, None)) for key in keys_in(keys, sdata.tables, "sdata.tables")]
    else:
        names = finer_shapes(sdata, image_key, shapes_key)
        finer = [(prediction_table_key(sdata, name, None, argument="fine_key"), name) for name in names]
    if not finer:
        raise MissingKeyError(
            f"No table has a finer prediction of {shapes_key!r}. First call "
            '`ds.tl.predict(sdata, model, resolution="subspot")`, or use resolution="grid" or "cell".'
        )
    return finer
