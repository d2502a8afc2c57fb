"""Prediction at a finer resolution than spots: sub-spots and grids."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import LEARNED, grid_name, subspots_name
from deepspot._features.bags import Bags
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._image.tiles import level_sizes
from deepspot._sdata.shapes import add_shapes
from deepspot._spatial.neighbors import find_neighbors
from deepspot._stats.groups import members_of
from deepspot.errors import InputError
from deepspot.models._model import clip_expression, warn_of_impossible

from .layout import grid_layout, grid_neighbors, plan_circles, subspot_layout
from .table import BLOCK_SIZE, Prediction, check_size, in_blocks, predict_in_blocks

if TYPE_CHECKING:
    from deepspot.models import Model

# Spots whose parts are converted to counts in float64 at a time.
CONSERVED = 16


def predict_subspots(
    features: SlideFeatures,
    model: Model,
    *,
    table_key: str,
    overwrite: bool,
    device: str | None,
    batch_size: int | None,
) -> Prediction:
    """Predict the sub-spots of every spot, whose mean on counts is the prediction of the spot; add their shapes."""
    view, geometry = features.view, model.geometry
    key = subspots_name(view.shapes_key)
    layout = subspot_layout(view.placement, geometry.tile)
    check_size(model, len(layout.parents), "subspot")
    circles = plan_circles(view, key, geometry.tile, layout, table_key=table_key, overwrite=overwrite)
    features_key = features.plan().add(device=device, batch_size=batch_size)
    bags = bags_of(view.sdata, features_key, view.shapes_key, geometry.neighbors)
    expression = subspot_expression(model, bags, device=device).reshape(len(layout.parents), -1)
    if circles is not None:
        add_shapes(view.sdata, key, circles, what=f"sub-spots of {view.shapes_key!r}", overwrite=True, own=[table_key])
    places = view.of_planned(key, layout.placement)
    provenance = {"resolution": "subspot", LEARNED: model.card.learned_from(features.image_hash)}
    return Prediction(places, expression, features_key, provenance, layout.parents)


def predict_grid(
    features: SlideFeatures,
    model: Model,
    grid_um: float | None,
    *,
    table_key: str,
    overwrite: bool,
    device: str | None,
    batch_size: int | None,
) -> Prediction:
    """Predict a grid over the spots from a spot tile around each point and its central sub-spot; add its shapes."""
    view, geometry = features.view, model.geometry
    spots, tile_um = view.placement, geometry.tile.tile_um
    key = grid_name(view.shapes_key)
    if grid_um is not None:  # a lower bound, so that far too many points are refused before they are computed
        check_size(model, len(spots.centers) * int(tile_um / grid_um) ** 2 // 2, "grid")
    layout = grid_layout(spots, level_sizes(view.pyramid)[0], tile_um, grid_um)
    check_size(model, len(layout.parents), "grid")
    circles = plan_circles(view, key, geometry.tile, layout, table_key=table_key, overwrite=overwrite)
    places = view.of_planned(key, layout.placement)
    plan = replace(features, view=places, only_central=True).plan()
    array = view.array_positions if geometry.neighbors.kind == "box" else None
    neighbors = grid_neighbors(layout, spots, find_neighbors(view.centers_um, geometry.neighbors, array))
    if circles is not None:
        add_shapes(
            view.sdata, key, circles, what=f"grid points over {view.shapes_key!r}", overwrite=True, own=[table_key]
        )
    features_key = plan.add(device=device, batch_size=batch_size)
    table = view.sdata.tables[features_key]
    position = places.centers_um.astype(np.float32)
    origins = places.centers - tile_um / places.mpp / 2
    X = np.asarray(table.X, dtype=np.float32)
    bags = Bags(X, table.obsm.get("subspots"), neighbors, position, origins=origins)
    expression = predict_in_blocks(model, bags, device=device)
    provenance = {
        "resolution": "grid",
        "grid_um": layout.step * spots.mpp,
        LEARNED: model.card.learned_from(features.image_hash),
    }
    return Prediction(places, expression, features_key, provenance)


def subspot_expression(model: Model, bags: Bags, *, device: str | None, block_size: int = BLOCK_SIZE) -> np.ndarray:
    """Predict log-expression (n, s, genes) ≥ 0 of sub-spots, with the prediction of the spot as their mean on counts.

    Each sub-spot takes the place of all s sub-spots of its spot; the spot and its neighbors stay the same.
    """
    if bags.subspots is None or bags.present is not None:
        raise InputError("The bags have no sub-spots that are parts of the tile. Embed with `subspots='tiles'`.")
    n, s = bags.subspots.shape[:2]
    expression = np.empty((n, s, len(model.card.genes)), dtype=np.float32)
    impossible = 0
    for rows, block in in_blocks(bags, block_size):
        own, subspots = np.arange(len(rows)), block.subspots
        whole, above = clip_expression(model, model.predict(block, device=device, rows=own))
        impossible += above
        for k in range(s):
            alone = replace(block, subspots=None if subspots is None else subspots[:, [k]])
            expression[rows, k], _ = clip_expression(model, model.predict(alone, device=device, rows=own))
        for start in range(0, len(rows), CONSERVED):
            some = rows[start : start + CONSERVED]
            children = expression[some].reshape(len(some) * s, -1)
            conserve(children, whole[start : start + CONSERVED], np.repeat(np.arange(len(some)), s))
            expression[some] = children.reshape(len(some), s, -1)
    warn_of_impossible(impossible, n * len(model.card.genes))
    return expression


def conserve(children: np.ndarray, parents: np.ndarray, groups: np.ndarray) -> None:
    """Scale the expression of parts of spots in place, so that their mean on counts is that of their spot.

    `children` (n, genes) and `parents` (m, genes; can be on disk) are log1p of expression; negative values count as 0.
    `groups` (n,) is the number of the spot of each part, or -1 for a part of no spot, which stays as it is. If all
    parts of a spot are 0, each gets the value of the spot.
    """
    order = np.argsort(groups, kind="stable")
    order = order[groups[order] >= 0]
    used, first, number = np.unique(groups[order], return_index=True, return_inverse=True)
    bounds = np.append(first, len(order))
    for start in range(0, len(used), CONSERVED):
        some = used[start : start + CONSERVED]
        own = slice(bounds[start], bounds[start + len(some)])
        rows, group = order[own], number[own] - start
        counts = np.expm1(np.maximum(children[rows], 0, dtype=np.float64))
        whole = np.expm1(np.maximum(np.asarray(parents[some]), 0, dtype=np.float64))
        mean = (members_of(group) @ counts) / np.bincount(group)[:, None]
        factor = np.divide(whole, mean, out=np.zeros_like(whole), where=mean > 0)
        children[rows] = np.log1p(np.where((mean > 0)[group], counts * factor[group], whole[group]))
