from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.settings import settings
from deepspot._core.validate import check_positive, check_same_length
from deepspot._sdata.select import select_image_and_shapes
from deepspot._sdata.tables import find_expression_table, match_rows

from ._embedding import spread, umap_of
from ._map.coloring import colouring
from ._map.tiles import cut_tiles, draw_tile, tile_side
from ._map.values import shapes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

PANEL_INCHES = 7.0
# Of the square that an image has for itself; the rest is air.
FILLED = 0.92
PLAIN = "#0072B2"


def umap(
    sdata: SpatialData,
    *,
    color: str | None = None,
    table_key: str | None = None,
    n_images: int = 60,
    seed: int | None = None,
    tile_um: float | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    cmap: str | Colormap = "viridis",
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw a UMAP of predicted genes: H&E images of some spots at their places, beside all spots as points.

    Spots that are near each other have similar genes, so images that are should look alike. The map is cut into
    squares, and each that holds spots shows the one nearest to its middle. So the images cover all parts of the map
    evenly, none hides another, and each lies within a square of where it belongs. Distances between far groups mean
    nothing.

    Parameters
    ----------
    sdata
        Object with an H&E image and predicted genes, see :func:`deepspot.tl.predict`. It is not changed.
    color
        What colours the points and the frames of the images: a gene, or a column with labels or numbers, such as
        ``"annotation"`` or ``"ood_score"``.
    table_key
        Table with the genes; by default the one predicted or corrected table, if there is only one.
    n_images
        Most images to draw.
    seed
        Of PCA, neighbours and UMAP; None falls back to the settings. They are computed, on a copy, only if the table
        has no ``obsm["X_umap"]``.
    tile_um
        Side of the images in µm; by default what the model saw of a spot, else the spot's diameter.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    cmap
        Colour map of matplotlib for genes and numbers.
    figsize
        Width and height in inches; by default 6 inches for a panel.
    ax
        Axes to draw into, for images and points; by default a new figure.

    Returns
    -------
    Two axes: images, points.

    Raises
    ------
    KeyError
        If nothing was predicted, or `color` or an element does not exist.
    ValueError
        If there are several candidates for an element, too few spots for a UMAP, `n_images` is below 1, or `ax` are
        not two axes.

    References
    ----------
    DeepSpot, figure 4A.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5)["P1_S1"]
    >>> model = ds.tl.train(sdata, genes=5, network={"members": 1})
    >>> ds.tl.predict(sdata, model)
    >>> len(ds.pl.umap(sdata, color=model.card.genes[0]))
    2
    """
    table_key = find_expression_table(sdata, table_key)
    shapes_key = shapes_of(sdata, table_key, shapes_key)
    tile_um = tile_side(sdata, table_key, shapes_key, tile_um)
    image_key, shapes_key = select_image_and_shapes(sdata, image_key, shapes_key, tile_um)
    n_images = int(check_positive(n_images, "n_images"))
    rows, positions = match_rows(sdata.tables[table_key], sdata, shapes_key)
    colours = None if color is None else colouring(sdata, table_key, color, rows, cmap)
    left, right = axes = _axes(ax, figsize)

    seed = settings.seed if seed is None else seed
    places = umap_of(sdata.tables[table_key], table_key, seed)[rows]
    chosen, middles, side = spread(places, n_images)
    tiles = cut_tiles(sdata, image_key, shapes_key, positions[chosen], tile_um)
    for panel in axes:
        _frame(panel, places, side)
    for tile, middle, spot in zip(tiles, middles, chosen, strict=True):
        _image(left, tile, middle, side * FILLED, None if colours is None else colours.rgba[spot])
    left.set_title(f"{len(chosen)} of {len(places):,} spots, images of {tile_um:.3g} µm")
    size = float(np.clip(8000 / len(places), 4, 40))
    right.scatter(places[:, 0], places[:, 1], s=size, c=PLAIN if colours is None else colours.rgba, linewidths=0)
    right.set_title("all spots" if colours is None else colours.title)
    if colours is not None:
        colours.explain(right)
    return axes


def _image(ax: Axes, tile: np.ndarray, middle: np.ndarray, side: np.ndarray, colour: np.ndarray | None) -> None:
    from matplotlib.patches import Rectangle

    draw_tile(ax, tile, middle, side)
    if colour is not None:
        (left, bottom), (width, height) = middle - side / 2, side
        ax.add_patch(Rectangle((left, bottom), width, height, fill=False, edgecolor=colour, linewidth=2.5, zorder=3))


def _frame(ax: Axes, places: np.ndarray, side: np.ndarray) -> None:
    """Make the map square, so that the images are: its axes have no unit, and scanpy stretches them too."""
    low, high = places.min(axis=0) - side / 2, places.max(axis=0) + side
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(False)


def _axes(ax: Sequence[Axes] | None, figsize: tuple[float, float] | None) -> list[Axes]:
    import matplotlib.pyplot as plt

    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        check_same_length(given, range(2), "`ax` and the panels")
        return given
    size = (PANEL_INCHES * 2 + 1, PANEL_INCHES + 0.4)
    return list(plt.subplots(1, 2, figsize=figsize or size, layout="constrained")[1])
