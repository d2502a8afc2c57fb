from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_count, check_seed
from deepspot._sdata.tables import find_expression_table, is_deepspot_table, match_rows
from deepspot._sdata.view import noun_of, select_image_and_shapes
from deepspot._sdata.zarr_store import check_fits_in_memory
from deepspot._stats.normalize import check_counts, normalize
from deepspot.errors import InputError

from ._map.coloring import coloring
from ._map.tiles import cut_tiles, draw_tile, tile_side
from ._map.values import shapes_of
from ._style import COLORS, several_axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

KEY = "X_umap"
COMPONENTS, NEIGHBORS = 50, 15
FEWEST = 5
# Maximum number of rows and columns of images that are still large enough.
FINEST = 24
PANEL_INCHES = 7.0
# Fraction of a grid cell that its image fills.
FILLED = 0.92


@checked
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
    """Plot a UMAP of predicted genes with H&E images of some spots, next to a scatter plot of all spots.

    Spots close to each other have similar expression, so their images should look similar. The UMAP is divided into a
    grid, and each cell with spots shows the image of the spot closest to its center. The images therefore cover all
    parts of the UMAP without overlap, and each is drawn in the cell of its spot. Do not interpret distances between
    groups that are far apart.

    Parameters
    ----------
    sdata
        Object with an H&E image and predicted genes, see :func:`deepspot.tl.predict`. It is not changed.
    color
        Color of the points and of the frames of the images: a gene, or a column with labels or numbers, such as
        ``"annotation"`` or ``"ood_score"``.
    table_key
        Table with the genes; by default the one predicted or corrected table, if there is only one.
    n_images
        Maximum number of images.
    seed
        Seed of PCA, neighbors and UMAP; None uses the settings. These are computed on a copy if the table has no
        ``obsm["X_umap"]``.
    tile_um
        Side of the images in µm; by default the tile size of the model, else the spot diameter.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    cmap
        Color map of matplotlib for genes and numbers.
    figsize
        Width and height in inches; by default 7 inches per panel.
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
    >>> model = ds.models.train(sdata, genes=5, network={"members": 1})
    >>> ds.tl.predict(sdata, model)
    >>> len(ds.pl.umap(sdata, color=model.card.genes[0]))
    2
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    table_key = find_expression_table(sdata, table_key)
    table = sdata.tables[table_key]
    shapes_key = shapes_of(sdata, table_key, shapes_key)
    tile_um = tile_side(sdata, table_key, shapes_key, tile_um)
    image_key, shapes_key = select_image_and_shapes(sdata, image_key, shapes_key, tile_um)
    n_images, seed = check_count(n_images, "n_images"), check_seed(seed)
    rows, positions = match_rows(table, sdata, shapes_key)
    colors = None if color is None else coloring(sdata, table_key, color, rows, cmap)
    if ax is None:
        size = figsize or (PANEL_INCHES * 2 + 1, PANEL_INCHES + 0.4)
        ax = plt.subplots(1, 2, figsize=size, layout="constrained")[1]
    left, right = axes = several_axes(ax, 2, "panels")

    places = umap_of(table, table_key, seed)[rows]
    chosen, middles, side = spread(places, min(n_images, len(places)))
    tiles = cut_tiles(sdata, image_key, shapes_key, positions[chosen], tile_um)
    low, high = places.min(axis=0) - side / 2, places.max(axis=0) + side
    for panel in axes:
        panel.set(xlim=(low[0], high[0]), xticks=[], xlabel="UMAP 1")
        panel.set(ylim=(low[1], high[1]), yticks=[], ylabel="UMAP 2")
        # A square box, so that images are square: UMAP axes have no unit.
        panel.set_box_aspect(1)
        panel.spines[["top", "right"]].set_visible(False)
    filled = side * FILLED
    for tile, middle, spot in zip(tiles, middles, chosen, strict=True):
        draw_tile(left, tile, middle, filled)
        if colors is not None:
            style: dict[str, Any] = {"fill": False, "edgecolor": colors.rgba[spot], "linewidth": 2.5, "zorder": 3}
            left.add_patch(Rectangle(middle - filled / 2, *filled, **style))
    noun = noun_of(sdata, shapes_key)
    left.set_title(f"{len(chosen)} of {noun.count(len(places))}, images of {tile_um:.3g} µm")
    size_of_dot = float(np.clip(8000 / len(places), 4, 40))
    dots = COLORS[0] if colors is None else colors.rgba
    right.scatter(places[:, 0], places[:, 1], s=size_of_dot, c=dots, linewidths=0)
    right.set_title(f"all {noun.many}" if colors is None else colors.title)
    if colors is not None:
        colors.explain(right)
    return axes


def umap_of(table: AnnData, table_key: str, seed: int) -> np.ndarray:
    """Return the UMAP (n, 2) of a table, computed on a copy if the table has none."""
    import scanpy as sc
    from anndata import AnnData

    if KEY in table.obsm:
        return np.asarray(table.obsm[KEY], dtype=float)[:, :2]
    X = table.X
    if not is_deepspot_table(table) and "log1p" not in table.uns:
        X = normalize(check_counts(X, f"X of table {table_key!r}"))
    if X.shape[0] < FEWEST:
        raise InputError(f"Table {table_key!r} has {X.shape[0]} rows: a UMAP needs at least {FEWEST}.")
    if hasattr(X, "dask"):  # scanpy's PCA of dask arrays needs one more package
        check_fits_in_memory(X.shape, "Compute a UMAP on some of it and store it in `obsm['X_umap']`")
        X = X.compute()
    copy = AnnData(X.copy())
    sc.pp.pca(copy, n_comps=min(COMPONENTS, *(size - 1 for size in copy.shape)), random_state=seed)
    sc.pp.neighbors(copy, n_neighbors=min(NEIGHBORS, copy.n_obs - 1), random_state=seed)
    sc.tl.umap(copy, random_state=seed)
    logger.info(
        f"Computed a UMAP of sdata.tables[{table_key!r}] for this figure (PCA, neighbors and UMAP of scanpy, seed "
        f"{seed}). Run these on the table to store the result."
    )
    return np.asarray(copy.obsm[KEY], dtype=float)


def spread(places: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose at most n points (points, 2) for images that do not overlap: in a grid, the point closest to each center.

    Returns positions of the chosen points, centers (chosen, 2) of their cells, and width and height (2,) of a cell.
    """
    reach = np.ptp(places, axis=0) * 1.001
    reach[reach == 0] = 1.0
    best = _cells(places, reach)
    for parts in range(2, max(FINEST, int(2 * n**0.5)) + 1):
        finer = _cells(places, reach / parts)
        if len(finer[0]) > n:
            break
        if len(finer[0]) > len(best[0]):
            best = finer
    return best


def _cells(places: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low = places.min(axis=0)
    cell = np.floor((places - low) / side).astype(int)
    middle = low + (cell + 0.5) * side
    order = np.argsort((((places - middle) / side) ** 2).sum(axis=1), kind="stable")
    _, first = np.unique(cell[order], axis=0, return_index=True)
    chosen = order[first]
    return chosen, middle[chosen], side
