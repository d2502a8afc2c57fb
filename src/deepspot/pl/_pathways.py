from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import checked, column_name, keys_in
from deepspot._core.validate import check_count
from deepspot._sdata.tables import find_result, match_rows
from deepspot._sdata.view import select_image_and_shapes
from deepspot.errors import InputError

from ._map.backdrop import backdrop_of
from ._map.panel import QUANTILES, draw_color_bar, draw_panel, grid_of, map_axes
from ._map.places import find_places
from ._map.values import ood_spots, shapes_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from spatialdata import SpatialData

COLUMNS = 3
PANEL_INCHES = 3.8
SCORES = {"score_mlm": "t-value of decoupler's mlm"}
ENDS = {True: "above (red) or below the mean of the slide", False: "above (red) or below other genes"}


@checked
def pathways(
    sdata: SpatialData,
    *,
    pathways: str | Sequence[str] | None = None,
    n_top: int = 6,
    relative: bool = True,
    table_key: str | None = None,
    score_key: str = "score_mlm",
    image_key: str | None = None,
    shapes_key: str | None = None,
    cmap: str | Colormap = "RdBu_r",
    image_alpha: float = 0.5,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot maps of pathway activity over the H&E image.

    Colors are the difference of a score from the mean of the pathway over the slide, which is white. The scores of most
    pathways are above or below 0 in all spots, because their zero depends on the genes in the table; this would hide
    the pattern. All maps share one symmetric color scale up to the 99 % quantile, so they can be compared: a pathway
    with pale colors varies little within this slide.

    If the scores come from predicted genes, spots that are out of distribution (``obs["ood"]``) have an orange outline
    and are counted in the titles.

    Parameters
    ----------
    sdata
        Object with results of :func:`deepspot.tl.pathways`. It is not changed.
    pathways
        Pathways to draw, in this order; by default those with the highest variance, in decreasing order.
    n_top
        Number of pathways to draw by default.
    relative
        Draw the difference from the mean over the slide; False draws the scores, with white at 0.
    table_key
        Table with the scores; needed only if several have some.
    score_key
        Key of the scores in `obsm` of the table.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    cmap
        Diverging color map of matplotlib.
    image_alpha
        Opacity of the image, from 0 to 1.
    figsize
        Width and height in inches; by default 4 inches per map.
    ax
        Axes to draw into, one for each pathway; by default a new figure.

    Returns
    -------
    The axes, one for each pathway.

    Raises
    ------
    KeyError
        If there are no scores, or a pathway, table, image or shapes element does not exist.
    ValueError
        If there are several candidates for an element, `pathways` is empty, or `ax` does not hold one axes for each.

    References
    ----------
    DeepSpot, figure 4D.

    Examples
    --------
    >>> import deepspot as ds
    >>> import pandas as pd
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> table = sdata.tables["table"]
    >>> scores = pd.DataFrame({"MAPK": range(12), "Hypoxia": range(12)[::-1]}, index=table.obs_names)
    >>> table.obsm["score_mlm"] = scores - scores.mean()  # ds.tl.pathways does this
    >>> len(ds.pl.pathways(sdata))
    2
    """
    table_key, scores = find_result(sdata, table_key, score_key, "ds.tl.pathways(sdata)", slot="obsm")
    shapes_key = shapes_of(sdata, table_key, shapes_key)
    image_key, shapes_key = select_image_and_shapes(sdata, image_key, shapes_key)
    chosen = _chosen(scores, pathways, n_top, f"sdata.tables[{table_key!r}].obsm[{score_key!r}]")

    rows, positions = match_rows(sdata.tables[table_key], sdata, shapes_key)
    values = np.full((len(sdata.shapes[shapes_key]), len(chosen)), np.nan)
    values[positions] = scores[chosen].to_numpy(dtype=float)[rows]
    if relative:
        values -= np.nanmean(values, axis=0)
    places = find_places(sdata, image_key, shapes_key)
    backdrop = backdrop_of(sdata, image_key, places)
    axes = map_axes(ax, grid_of(len(chosen), COLUMNS), backdrop, inches=PANEL_INCHES, figsize=figsize)
    ood = ood_spots(sdata, shapes_key, table_key)
    limit = float(np.nanquantile(np.abs(values), QUANTILES[1])) or 1.0
    for panel, name, column in zip(axes, chosen, values.T, strict=True):
        shapes = draw_panel(
            panel, column, places, backdrop, cmap=cmap, alpha=image_alpha, title=name, clim=(-limit, limit), ood=ood
        )
    label = f"{SCORES.get(score_key, score_key)}{', less its mean' * relative}\n{ENDS[bool(relative)]}"
    draw_color_bar(shapes, axes, values, label)
    return axes


def _chosen(scores: pd.DataFrame, pathways: str | Sequence[str] | None, n_top: int, where: str) -> list[str]:
    if pathways is None:
        spread = scores.var().dropna().sort_values(ascending=False, kind="stable")
        if not len(spread):
            raise InputError(f"No pathway of {where} has two scores to compare. Choose some with `pathways=`.")
        return [str(name) for name in spread.index[: check_count(n_top, "n_top")]]
    if not len(pathways):
        raise InputError(f"`pathways` is empty. Name at least one of {list(scores.columns)}, or leave it out.")
    wanted = [pathways] if isinstance(pathways, str) else map(str, pathways)
    stored = [column if name not in scores and (column := column_name(name)) in scores else name for name in wanted]
    return keys_in(stored, scores.columns, where)
