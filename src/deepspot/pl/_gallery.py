from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import checked, keys_in
from deepspot._core.validate import check_count
from deepspot._sdata.tables import find_expression_table, known_genes
from deepspot._sdata.view import Noun, noun_of, select_image_and_shapes
from deepspot.errors import InputError

from ._map.panel import bar_length, draw_scale_bar, is_flat
from ._map.tiles import cut_tiles, draw_tile, tile_side
from ._map.values import (
    describe_values,
    expression_values,
    label_positions,
    ood_spots,
    shapes_of,
    training_note,
    unit_label,
)
from ._style import ORANGE, several_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

TILE_INCHES = 1.35
TOP_INCHES = 0.5


@checked
def gallery(
    sdata: SpatialData,
    gene: str,
    *,
    n: int = 8,
    groupby: str | None = None,
    groups: Sequence[str] | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    tile_um: float | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot H&E images of the spots where a gene is highest (top row) and lowest (bottom row).

    The value is above each image. Images of spots that are out of distribution (``obs["ood"]``) have an orange frame.
    If more spots than shown have the lowest or the highest value, they are sampled at random with a fixed seed.

    With `groupby`, there is a row for each label instead, such as TLS and normal tissue, with spots that are sampled at
    random from all of its spots, by decreasing value: the images are typical of the label and not chosen by the gene.
    Left of a row are the number of its spots and their mean.

    Parameters
    ----------
    sdata
        Object with an H&E image and genes. It is not changed.
    gene
        Name of the gene.
    n
        Number of spots in each row; fewer if the slide has fewer than twice as many, or a label has fewer.
    groupby
        Column with labels, in `obs` of the table or of the shapes, for a row of spots of each label.
    groups
        Labels to show, in this order; by default all with a value.
    table_key
        Table with the genes; by default the one predicted or corrected table, if there is only one.
    layer
        Layer of the table. For a measured table, a layer with raw counts; these are drawn as log1p of counts per
        10,000.
    tile_um
        Side of the images in µm; by default the tile size of the model, else the spot diameter. A larger value also
        shows the surroundings.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    figsize
        Width and height in inches; by default 1.35 inches per image.
    ax
        Axes to draw into, `n` for the highest and then `n` for the lowest, or for each label as many as it has images;
        by default a new figure.

    Returns
    -------
    The axes of the images, row by row, by decreasing value.

    Raises
    ------
    KeyError
        If the gene, a label or an element does not exist, or nothing was predicted.
    ValueError
        If there are several candidates for an element, fewer than two spots have a value, the gene varies by less than
        0.01, `n` is below 1, the image is too coarse to show a spot, or `ax` does not hold one axes for each image.

    References
    ----------
    DeepSpot, figures 6E and 6F.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> model = ds.models.train(sdata, genes=5, network={"members": 1})
    >>> ds.tl.predict(sdata, model)
    >>> len(ds.pl.gallery(sdata, model.card.genes[0], n=4))
    8
    """
    import matplotlib.pyplot as plt

    table_key = find_expression_table(sdata, table_key)
    shapes_key = shapes_of(sdata, table_key, shapes_key)
    tile_um = tile_side(sdata, table_key, shapes_key, tile_um)
    image_key, shapes_key = select_image_and_shapes(sdata, image_key, shapes_key, tile_um)
    (gene,) = known_genes(gene, sdata, [table_key])
    values = expression_values(sdata, shapes_key, table_key, [gene], layer=layer)[:, 0]
    n, noun = check_count(n, "n"), noun_of(sdata, shapes_key)
    if groupby is None:
        rows = dict(zip(("highest", "lowest"), _ends(values, n, gene, shapes_key, noun), strict=True))
    else:
        rows = _of_labels(values, label_positions(sdata, table_key, shapes_key, groupby), n, groups, groupby, noun)
    shown, ood = np.concatenate(list(rows.values())), ood_spots(sdata, shapes_key, table_key)
    framed = np.zeros(len(shown), dtype=bool) if ood is None else ood[shown]

    tiles = cut_tiles(sdata, image_key, shapes_key, shown, tile_um)
    columns = max(map(len, rows.values()))
    if ax is None:
        size = figsize or (TILE_INCHES * columns + 0.4, (TILE_INCHES + 0.25) * len(rows) + TOP_INCHES)
        figure, grid = plt.subplots(len(rows), columns, figsize=size, squeeze=False, layout="constrained")
        title = f"{gene} {describe_values(sdata, table_key, layer)} ({unit_label(sdata, table_key, layer)})"
        title += training_note(sdata, table_key)
        if framed.any():
            title += f"\n{framed.sum()} of {noun.count(len(framed))} out of distribution (frame)"
        if groupby is not None:
            title += f"\nrandom {noun.many} of each {groupby}"
        figure.suptitle(title, fontsize="large")
        used = np.array([np.arange(columns) < len(positions) for positions in rows.values()])
        for panel, name in zip(grid[:, 0], rows, strict=True):
            panel.set_ylabel(name, fontsize="large" if groupby is None else "medium")
        for panel in grid[~used]:
            panel.set_axis_off()
        ax = list(grid[used])
    axes = several_axes(ax, len(shown), "images")
    half = tile_um / 2
    for panel, tile, value, is_ood in zip(axes, tiles, values[shown], framed, strict=True):
        panel.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], box_aspect=1)
        draw_tile(panel, tile, (0, 0), (tile_um, tile_um))
        panel.set_title(f"{value:.2f}", fontsize="medium", pad=3)
        if is_ood:
            panel.spines[:].set(color=ORANGE, linewidth=3)
    draw_scale_bar(axes[0], bar_length(2 * tile_um))
    return axes


def _of_labels(
    values: np.ndarray, labels: pd.Series, n: int, groups: Sequence[str] | None, groupby: str, noun: Noun
) -> dict[str, np.ndarray]:
    """Return n random positions of each label, by decreasing value; the key is the text left of the row."""
    known = labels[np.isfinite(values)]
    found = [name for name in labels.cat.categories if (known == name).any()]
    rng = np.random.default_rng(0)
    rows = {}
    for name in keys_in(groups, found, f"labels of {groupby!r} with a value"):
        members = np.flatnonzero((labels == name).to_numpy() & np.isfinite(values))
        chosen = rng.choice(members, min(n, len(members)), replace=False)
        text = f"{name}\n{noun.count(len(members))}\nmean {values[members].mean():.2f}"
        rows[text] = chosen[np.argsort(-values[chosen], kind="stable")]
    if not rows:
        raise InputError(f"No {noun.one} with a label in {groupby!r} has a value. Choose another column.")
    return rows


def _ends(values: np.ndarray, n: int, gene: str, shapes_key: str, noun: Noun) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the n highest and the n lowest values, each in decreasing order."""
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) < 2:
        raise InputError(
            f"{noun.count(len(finite))} of {shapes_key!r} have a value of {gene!r}: at least 2 are needed."
        )
    if is_flat(values):
        raise InputError(
            f"{gene!r} is constant: {values[finite].mean():.2f} in every {noun.one} of {shapes_key!r}. There are no "
            f"{noun.many} where it is high or low. Choose another gene."
        )
    n = min(n, len(finite) // 2)
    # Without a permutation, spots of equal value, such as 0, would be the first ones of the table, which are neighbors.
    finite = np.random.default_rng(0).permutation(finite)
    order = finite[np.argsort(-values[finite], kind="stable")]
    return order[:n], order[-n:]
