"""The three resolutions of a prediction: spots, their sub-spots, a finer grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from deepspot._core.keys import grid_name, subspots_name
from deepspot._core.settings import settings
from deepspot._features.bags import Bags
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._image.tiles import level_sizes
from deepspot._sdata.tables import rows_of
from deepspot._spatial.neighbors import check_array, find_neighbors
from deepspot.errors import InputError

from .layout import add_circles, grid_neighbors, lay_grid, lay_subspots, plan_circles

if TYPE_CHECKING:
    from deepspot._sdata.view import SlideView
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

Resolution = Literal["spot", "subspot", "grid"]
PLACES = {"spot": "spots", "subspot": "sub-spots", "grid": "grid points"}
# Spots that are predicted at once: what is held beside the result does not grow with the slide.
ROWS = 1024
# Spots whose sub-spots are on the scale of counts, in double precision, at once.
CONSERVED = 16


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model predicts, and for which shapes.

    Attributes
    ----------
    expression
        (m, genes) float32 log-expression; of spots as it left the model.
    shapes_key, index, centers
        Shapes, their index, and their x and y in the image (m, 2).
    features_key, rows
        Feature table, and the row in it whose spot tile each of them was predicted from (m,).
    provenance
        What `uns` shall say of it.
    """

    expression: np.ndarray
    shapes_key: str
    index: pd.Index
    centers: np.ndarray
    features_key: str
    rows: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)


def features_of(view: SlideView, model: DeepSpot, encoder: str | Encoder | None = None) -> SlideFeatures:
    """The features that a model takes of a slide; raise if it lacks what their making needs. Changes nothing."""
    check_array(model.geometry.neighbors, view.array_positions)
    needs_subspots = "subspots" in model.card.network.context
    return SlideFeatures(view, model.get_encoder(encoder), model.geometry.tile, needs_subspots)


def target(resolution: Resolution, shapes_key: str) -> str:
    """Name of the shapes that a prediction is for."""
    return {"spot": shapes_key, "subspot": subspots_name(shapes_key), "grid": grid_name(shapes_key)}[resolution]


def at_spots(features: SlideFeatures, model: DeepSpot, *, copies: int = 1, **compute: Any) -> Predicted:
    """Predict the spots themselves.

    Parameters
    ----------
    features
        What the model takes.
    model
        A model that was trained on slides.
    copies
        Layers that the table will have, with `X`.
    compute
        `device` and `batch_size`.
    """
    view = features.view
    _check_size(model, features.n_spots, PLACES["spot"], copies)
    key = features.plan().add(**compute)
    bags = bags_of(view.sdata, key, view.shapes_key, model.geometry.neighbors)
    expression = predict_in_blocks(model, bags, device=compute.get("device"))
    table = view.sdata.tables[key]
    index, centers = pd.Index(rows_of(table, view.shapes_key)), np.asarray(table.obsm["spatial"])
    return Predicted(expression, view.shapes_key, index, centers, key, np.arange(len(bags)))


def at_subspots(
    features: SlideFeatures, model: DeepSpot, *, table_key: str, overwrite: bool, **compute: Any
) -> Predicted:
    """Predict the sub-spots of every spot, on average the spot."""
    view, geometry = features.view, model.geometry
    made = subspots_name(view.shapes_key)
    layout = lay_subspots(view.placement, geometry.tile)
    _check_size(model, len(layout.parents), PLACES["subspot"])
    circles = plan_circles(view, made, geometry.tile, layout, table_key=table_key, overwrite=overwrite)
    key = features.plan().add(**compute)
    bags = bags_of(view.sdata, key, view.shapes_key, geometry.neighbors)
    expression = predict_subspots(model, bags, device=compute.get("device")).reshape(len(layout.parents), -1)
    add_circles(view.sdata, made, circles, what=f"{PLACES['subspot']} of {view.shapes_key!r}")
    return Predicted(expression, made, layout.placement.index, layout.placement.centers, key, layout.parents)


def at_grid(
    features: SlideFeatures,
    model: DeepSpot,
    grid_um: float | None,
    *,
    table_key: str,
    overwrite: bool,
    **compute: Any,
) -> Predicted:
    """Predict a finer grid over the spots: a spot tile around each point, and its central sub-spot."""
    view, geometry = features.view, model.geometry
    sdata, spots, tile_um = view.sdata, view.placement, geometry.tile.tile_um
    made = grid_name(view.shapes_key)
    if grid_um is not None:  # spots alone hold so many: too many are refused before they are laid out
        _check_size(model, len(spots.centers) * int(tile_um / grid_um) ** 2 // 2, PLACES["grid"])
    layout = lay_grid(spots, level_sizes(view.pyramid)[0], tile_um, grid_um)
    _check_size(model, len(layout.parents), PLACES["grid"])
    circles = plan_circles(view, made, geometry.tile, layout, table_key=table_key, overwrite=overwrite)
    plan = replace(features, view=view.of_planned(made, layout.placement), only_central=True).plan()
    array = view.array_positions if geometry.neighbors.kind == "box" else None
    neighbors = grid_neighbors(layout, spots, find_neighbors(view.centers_um, geometry.neighbors, array))
    add_circles(sdata, made, circles, what=f"{PLACES['grid']} over {view.shapes_key!r}")
    key = plan.add(**compute)
    table, centers = sdata.tables[key], layout.placement.centers
    position = (centers * spots.mpp).astype(np.float32)
    bags = Bags(np.asarray(table.X, dtype=np.float32), table.obsm.get("subspots"), neighbors, position)
    expression = predict_in_blocks(model, bags, device=compute.get("device"))
    np.maximum(expression, 0, out=expression)
    provenance = {"grid_um": layout.step * spots.mpp}
    return Predicted(expression, made, layout.placement.index, centers, key, np.arange(len(bags)), provenance)


def predict_in_blocks(model: DeepSpot, bags: Bags, *, device: str | None, rows: int = ROWS) -> np.ndarray:
    """Predict log-expression (n, genes) as the model does, at most `rows` spots and their neighbors at once."""
    expression = np.empty((len(bags), len(model.card.genes)), dtype=np.float32)
    for block, part in _blocks(bags, rows):
        expression[block] = model.predict(part, device=device, rows=np.arange(len(block)))
    return expression


def predict_subspots(model: DeepSpot, bags: Bags, *, device: str | None, rows: int = ROWS) -> np.ndarray:
    """Predict log-expression (n, s, genes) of sub-spots, never negative, that averages to the spot's on counts.

    A sub-spot stands alone where all s stood in training, as if there were s of them that look like it. Spot and
    neighbors stay.
    """
    subspots = bags.subspots
    if subspots is None:
        raise InputError("The bags hold no sub-spots, so there is nothing to tell them apart by.")
    n, s = subspots.shape[:2]
    expression = np.empty((n, s, len(model.card.genes)), dtype=np.float32)
    for block, part in _blocks(bags, rows):
        own, around = np.arange(len(block)), part.subspots
        whole = model.predict(part, device=device, rows=own)
        for k in range(s):
            alone = replace(part, subspots=None if around is None else around[:, [k]])
            expression[block, k] = model.predict(alone, device=device, rows=own)
        for at in range(0, len(block), CONSERVED):
            some = block[at : at + CONSERVED]
            expression[some] = conserve(expression[some], whole[at : at + CONSERVED])
    return expression


def conserve(children: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Scale sub-spots so that they average to their spot.

    Parameters
    ----------
    children
        (n, s, genes) log1p of expression; negative values count as 0.
    parents
        (n, genes) the same of the spots.

    Returns
    -------
    (n, s, genes) in float32, not below 0: on the scale of counts (``expm1``) the mean over s is that of the spot. Where
    all sub-spots are 0 and the spot is not, they are all like the spot.
    """
    mass = np.expm1(np.maximum(children, 0, dtype=np.float64))
    whole = np.expm1(np.maximum(parents, 0, dtype=np.float64))[:, None]
    mean = mass.mean(axis=1, keepdims=True)
    share = np.divide(mass, mean, out=np.ones_like(mass), where=mean > 0)
    return np.log1p(share * whole).astype(np.float32)


def _blocks(bags: Bags, rows: int) -> Iterator[tuple[np.ndarray, Bags]]:
    """Rows of a block (b,), and bags whose first b spots are these. The others serve as neighbors only."""
    if len(bags) <= rows:
        yield np.arange(len(bags)), bags
        return
    # Strips across the slide have few neighbors outside, in whatever order the spots come.
    order = np.arange(len(bags)) if bags.position is None else np.argsort(bags.position[:, 1], kind="stable")
    for at in range(0, len(order), rows):
        yield order[at : at + rows], bags.around(order[at : at + rows])


def _check_size(model: DeepSpot, n: int, what: str, copies: int = 1) -> None:
    genes = len(model.card.genes)
    gb = n * genes * copies * np.dtype(np.float32).itemsize / 1e9
    if gb > settings.max_table_gb:
        raise InputError(
            f"The prediction of {n:,} {what} × {genes:,} genes would take {gb:.1f} GB in memory, above "
            f"`ds.settings.max_table_gb` = {settings.max_table_gb:g}. Stream it to disk with `out='predicted.zarr'` "
            "(spots only), raise the limit, or predict a part of the spots."
        )
