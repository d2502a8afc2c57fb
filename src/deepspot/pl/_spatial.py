from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from deepspot._core.keys import PREDICTION, checked
from deepspot._sdata.tables import check_shared_genes, comparable_scale, known_genes, tables_of_kind
from deepspot._sdata.view import select_image_and_shapes
from deepspot._stats.metrics import pearson

from ._map.backdrop import backdrop_of
from ._map.panel import GENE_SPAN, draw_gene, limits, map_axes
from ._map.places import find_places
from ._map.values import (
    corrected_table_key,
    measured_table_key,
    measured_values,
    ood_spots,
    predicted_values,
    prediction_table_key,
    training_note,
    unit_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

    from deepspot._sdata.view import Noun

MEASURED, PREDICTED, CORRECTED = range(3)


@checked
def spatial(
    sdata: SpatialData,
    gene: str | Sequence[str],
    *,
    prediction_key: str | None = None,
    table_key: str | None = None,
    corrected_key: str | Literal[False] | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    cmap: str | Colormap = "viridis",
    image_alpha: float = 0.5,
    shared_scale: bool = False,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot measured, predicted and corrected expression of a gene side by side over the H&E image.

    Each panel has a separate color scale from the 1 to the 99 % quantile, because a prediction does not contain the
    measurement noise and varies less than a measurement. Compare where a gene is high and low, not the colors, or use
    `shared_scale`. The title gives the span of the values between the two quantiles. A color scale covers at least one
    log unit (a factor of 2.7), so small differences have similar colors. A gene that varies by less than 0.01 is drawn
    in gray, and the title says that it is constant. Spots have the diameter of the tissue that they measure. Cells,
    nuclei and bins are drawn as they are.

    Places that are out of distribution (``obs["ood"]``) have an orange outline in the panels of predicted and
    corrected genes, and are counted in the title. Where such places touch, the line runs around all of them.

    A corrected gene contains the measurement, so the correlation between them is not evidence of accuracy and is not
    given. The title gives the mean weight of the measurement instead.

    Parameters
    ----------
    sdata
        Object with predicted genes, see :func:`deepspot.tl.predict`, or corrected ones, see
        :func:`deepspot.tl.correct`. It is not changed.
    gene
        One or more genes; each has a row.
    prediction_key, table_key
        Tables with predicted and measured genes; needed only if there are several. If there are corrected genes but no
        table of predicted ones, the layer `predicted` of the corrected table is drawn.
    corrected_key
        Table with corrected genes; needed only if there are several. False leaves them out.
    layer
        Layer with the raw counts of the measured genes. By default `X`, which is drawn unchanged if ``uns["log1p"]``
        marks it as log scale. Counts are drawn on the scale of the prediction.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    cmap
        Color map of matplotlib.
    image_alpha
        Opacity of the image, from 0 to 1.
    shared_scale
        Use one color scale for all panels of a gene.
    figsize
        Width and height in inches; by default 5 inches per panel.
    ax
        Axes to draw into, one for each panel; by default a new figure.

    Returns
    -------
    The axes, gene by gene: measured, predicted, corrected. A panel is missing if a gene was not measured, not predicted
    or not corrected. The title of the predicted panel gives Pearson's r over the spots that were also measured, the
    title of the corrected panel the mean weight of the measurement.

    Raises
    ------
    KeyError
        If a gene was neither predicted nor corrected, or a table, image or shapes element does not exist.
    ValueError
        If there are several candidates for an element, `ax` does not hold one axes for each panel, the measured table
        has neither counts nor ``uns["log1p"]``, or the table `table_key` has fewer than half of the predicted genes.

    References
    ----------
    DeepSpot, figures 3C, 5B and 5C.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> model = ds.models.train(sdata, genes=5, network={"members": 1})
    >>> ds.tl.predict(sdata, model)
    >>> len(ds.pl.spatial(sdata, model.card.genes[0]))
    2
    """
    image_key, shapes_key = select_image_and_shapes(sdata, image_key, shapes_key)
    corrected_key = corrected_table_key(sdata, shapes_key, corrected_key)
    source, source_layer = _prediction(sdata, shapes_key, prediction_key, corrected_key)
    named, table_key = table_key is not None, measured_table_key(sdata, shapes_key, table_key)
    if named and table_key is not None:
        check_shared_genes(list(sdata.tables[source].var_names), sdata.tables[table_key], table_key)
    genes = known_genes(gene, sdata, list(dict.fromkeys([source, corrected_key or source])))

    predicted = predicted_values(sdata, shapes_key, source, genes, layer=source_layer)
    scale = comparable_scale(sdata.tables[source])
    measured, corrected, weight = (np.full_like(predicted, np.nan) for _ in range(3))
    if table_key is not None:
        measured = measured_values(sdata, shapes_key, table_key, genes, layer=layer, scale=scale)
    if corrected_key is not None:
        corrected, mixed, weight = (
            predicted_values(sdata, shapes_key, corrected_key, genes, layer=name)
            for name in (None, "predicted", "weight")
        )
        weight[~np.isfinite(mixed)] = np.nan  # genes that the model does not predict were not corrected
    values = np.stack([measured, predicted, corrected])
    used = np.isfinite(values).any(axis=1).T

    places = find_places(sdata, image_key, shapes_key)
    backdrop = backdrop_of(sdata, image_key, places)
    axes = map_axes(ax, used, backdrop, figsize=figsize)
    ood = [None, *(key and ood_spots(sdata, shapes_key, key) for key in (source, corrected_key))]
    units = [
        "" if key is None else unit_label(sdata, key, layer if side == MEASURED else None, scale)
        for side, key in enumerate((table_key, source, corrected_key))
    ]
    for panel, (column, side) in zip(axes, np.argwhere(used), strict=True):
        drawn = values[side, :, column]
        title = _title(genes[column], side, measured[:, column], predicted[:, column], weight[:, column], places.noun)
        title += "" if side == MEASURED else training_note(sdata, source)
        draw_gene(
            panel,
            drawn,
            places,
            backdrop,
            cmap=cmap,
            alpha=image_alpha,
            title=title,
            label=units[side],
            clim=limits(values[:, :, column] if shared_scale else drawn, GENE_SPAN),
            ood=ood[side],
        )
    return axes


def _prediction(
    sdata: SpatialData, shapes_key: str, key: str | None, corrected_key: str | None
) -> tuple[str, str | None]:
    """Return the table with the prediction, and its layer if only a corrected table holds it."""
    if key is None and corrected_key is not None and not tables_of_kind(sdata, shapes_key, PREDICTION):
        return corrected_key, "predicted"
    return prediction_table_key(sdata, shapes_key, key), None


def _title(gene: str, side: int, measured: np.ndarray, predicted: np.ndarray, weight: np.ndarray, noun: Noun) -> str:
    if side == MEASURED:
        return f"{gene} measured"
    if side == CORRECTED:
        weight = weight[np.isfinite(weight)]
        if not len(weight):
            return f"{gene} not corrected (not predicted by the model)"
        return f"{gene} corrected, {100 * weight.mean():.0f} % measured"
    if not np.isfinite(measured).any():
        return f"{gene} predicted (not measured here)"
    both = np.isfinite(measured) & np.isfinite(predicted)
    r = pearson(predicted[both, None], measured[both, None])[0] if both.sum() > 2 else np.nan
    agreement = f"r = {r:.2f}" if np.isfinite(r) else "r undefined"
    return f"{gene} predicted, {agreement} over {noun.count(both.sum())}"
