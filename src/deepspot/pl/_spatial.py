from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot import _check, _choose, _coords, _keys, _tables
from deepspot._metrics import pearson

from . import _values
from ._backdrop import cut_backdrop
from ._panel import draw_panel

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

PANEL_INCHES = 5.0
# Share of the distance between spots, where their size is unknown.
LOOSE = 0.55


def spatial(
    sdata: SpatialData,
    gene: str | Sequence[str],
    *,
    prediction_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    cmap: str | Colormap = "viridis",
    image_alpha: float = 0.5,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw a gene as measured and as predicted, side by side over the H&E image.

    Each panel has a colour scale of its own, from the 1 to the 99 % quantile: a prediction varies less than a
    measurement, because it leaves out the noise. Compare where a gene is high and low, not the colours. Spots are drawn
    as wide as the tissue that they measure.

    Parameters
    ----------
    sdata
        Object with predicted genes, see :func:`deepspot.tl.predict`. It is not changed.
    gene
        A gene, or several for one row each.
    prediction_key, table_key
        Predicted and measured genes; needed only if there are several such tables.
    layer
        Layer with the raw counts of the measured genes. By default `X`, which is drawn as it is if ``uns["log1p"]``
        says that it is on the log scale; counts are drawn as log1p of counts per 10,000.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    cmap
        Colour map of matplotlib.
    image_alpha
        Opacity of the image, from 0 to 1.
    figsize
        Width and height in inches; by default 5 inches for a panel.
    ax
        Axes to draw into, one for each panel; by default a new figure.

    Returns
    -------
    The axes, gene by gene: measured, predicted. Where a gene was not measured there is only the predicted panel, and
    its title says so. Otherwise that title gives Pearson's r over the spots that have both.

    Raises
    ------
    KeyError
        If a gene was not predicted, or a table, image or shapes element does not exist.
    ValueError
        If there are several candidates for an element, `ax` does not hold one axes for each panel, or the measured
        table holds neither counts nor a note that it is on the log scale; or if the table that `table_key` names
        measures under half of the predicted genes.

    References
    ----------
    DeepSpot, figures 2 and 3.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> model = ds.tl.train(sdata, genes=5, network={"members": 1})
    >>> ds.tl.predict(sdata, model)
    >>> len(ds.pl.spatial(sdata, model.card.genes[0]))
    2
    """
    image_key, shapes_key = _choose.image_and_shapes(sdata, image_key, shapes_key)
    prediction_key = _values.prediction_key(sdata, shapes_key, prediction_key)
    asked, table_key = table_key is not None, _values.measured_key(sdata, shapes_key, table_key)
    if asked and table_key is not None:
        _tables.check_shared(list(sdata.tables[prediction_key].var_names), sdata.tables[table_key], table_key)
    genes = _known([gene] if isinstance(gene, str) else list(gene), sdata.tables[prediction_key], prediction_key)

    right = _values.predicted(sdata, shapes_key, prediction_key, genes)
    left = np.full_like(right, np.nan)
    if table_key is not None:
        left = _values.measured(sdata, shapes_key, table_key, genes, layer=layer)
    measured = np.isfinite(left).any(axis=0)

    placement = _coords.place(sdata, image_key, shapes_key)
    xy = placement.centers * placement.mpp
    diameter = _diameter(sdata, shapes_key, xy)
    margin = max(0.04 * float(np.ptp(xy, axis=0).max()), 2 * diameter)
    backdrop = cut_backdrop(sdata, image_key, placement.centers, mpp=placement.mpp, margin_um=margin)
    axes = _axes(ax, measured, figsize, aspect=backdrop.pixels.shape[0] / backdrop.pixels.shape[1])

    units = _unit(sdata, table_key, layer), _unit(sdata, prediction_key, None)
    panels = [(column, side) for column in range(len(genes)) for side in ((0, 1) if measured[column] else (1,))]
    for panel, (column, side) in zip(axes, panels, strict=True):
        draw_panel(
            panel, (left, right)[side][:, column], xy, diameter=diameter, backdrop=backdrop, cmap=cmap,
            alpha=image_alpha, label=units[side],
            title=_title(genes[column], side, left[:, column], right[:, column]),
        )  # fmt: skip
    return axes


def _known(genes: list[str], table: AnnData, key: str) -> list[str]:
    from difflib import get_close_matches

    if not genes:
        raise ValueError("`gene` is empty. Pass the name of a gene, or several.")
    for gene in genes:
        if gene not in table.var_names:
            near = get_close_matches(str(gene), [str(name) for name in table.var_names], n=5, cutoff=0.5)
            hint = f"Similar names: {near}." if near else f"Its genes look like {list(table.var_names[:5])}."
            raise KeyError(f"Gene `{gene!r}` is not among the {table.n_vars:,} genes of sdata.tables[{key!r}]. {hint}")
    return genes


def _diameter(sdata: SpatialData, shapes_key: str, xy: np.ndarray) -> float:
    known = sdata.shapes[shapes_key].get(_keys.DIAMETER)
    return LOOSE * _coords.pitch_px(xy) if known is None else float(known.median())


def _unit(sdata: SpatialData, table_key: str | None, layer: str | None) -> str:
    table = None if table_key is None else sdata.tables[table_key]
    if table is None or (layer is None and "log1p" in table.uns and _keys.UNS not in table.uns):
        return "log expression, as in the table"
    return str(table.uns.get(_keys.UNS, {}).get("scale", _keys.SCALE))


def _title(gene: str, side: int, measured: np.ndarray, predicted: np.ndarray) -> str:
    if side == 0:
        return f"{gene} measured"
    if not np.isfinite(measured).any():
        return f"{gene} predicted (not measured here)"
    both = np.isfinite(measured) & np.isfinite(predicted)
    r = pearson(predicted[both, None], measured[both, None])[0] if both.sum() > 2 else np.nan
    agreement = f"r = {r:.2f}" if np.isfinite(r) else "r undefined"
    return f"{gene} predicted, {agreement} over {both.sum():,} spots"


def _axes(
    ax: Axes | Sequence[Axes] | None, measured: np.ndarray, figsize: tuple[float, float] | None, aspect: float
) -> list[Axes]:
    import matplotlib.pyplot as plt

    needed = len(measured) + int(measured.sum())
    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        _check.same_length(given, range(needed), "`ax` and the panels")
        return given
    columns = 1 + int(measured.any())
    size = (PANEL_INCHES * 1.18 * columns, (PANEL_INCHES * aspect + 0.4) * len(measured))
    _, grid = plt.subplots(len(measured), columns, figsize=figsize or size, squeeze=False, layout="constrained")
    for row, both in zip(grid, measured, strict=True):
        if columns == 2 and not both:
            row[0].set_axis_off()
    return [panel for row, both in zip(grid, measured, strict=True) for panel in (row if both else row[-1:])]
