"""Prediction of cells, or of any shapes smaller than spots."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from deepspot._core.keys import LEARNED, PARENT, key_in, one_key
from deepspot._core.logging import logger
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._features.nuclei import check_nuclei
from deepspot._sdata.view import SlideView, known_diameter
from deepspot._spatial.transforms import share_coordinate_system
from deepspot.models._model import clip_expression, is_log, warn_of_impossible

from .table import Prediction, check_size, get_prediction, predict_in_blocks

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import Model


def cell_shapes(sdata: SpatialData, shapes_key: str | None) -> str:
    """Return the name of the shapes of cells: by default the only ones that are no circles."""
    if shapes_key is not None:
        return key_in(shapes_key, sdata.shapes, "sdata.shapes")
    polygons = [key for key, shapes in sdata.shapes.items() if "radius" not in shapes]
    return one_key(None, polygons, "polygons in sdata.shapes", "shapes_key")


def predict_cells(
    features: SlideFeatures,
    model: Model,
    encoder: str | Encoder | None,
    *,
    device: str | None,
    batch_size: int | None,
) -> Prediction:
    """Predict cells from a spot tile around each and its central sub-spot; those in a spot get its mean on counts."""
    view = features.view
    check_size(model, features.n_spots, "cell", copies=2)
    spots = _spots(view)
    if spots is not None and replace(features, view=spots).by_nuclei:
        check_nuclei(spots, features.geometry)
    features_key = replace(features, only_central=True).plan().add(device=device, batch_size=batch_size)
    bags = bags_of(view.sdata, features_key, view.shapes_key, model.geometry.neighbors)
    expression, above = clip_expression(model, predict_in_blocks(model, bags, device=device))
    warn_of_impossible(above, expression.size)
    if not is_log(model.card.scale):
        logger.warning("The scale %r cannot be summed, so the cells are not scaled to their spots.", model.card.scale)
    elif spots is None:
        logger.warning(
            "There are no spots of known diameter, so the cells do not add up to the prediction of any spot. "
            "`ds.pp.spots` places spots, and `ds.pp.pool` makes them from measured cells."
        )
    else:
        prediction = get_prediction(spots, model, encoder, device=device, batch_size=batch_size)
        rows = np.asarray(prediction.obsm["spatial"])
        reach = float(known_diameter(view.sdata, spots.shapes_key) or 0) / view.mpp / 2
        groups = nearest_within(view.centers, rows, reach)
        conserve_in_groups(expression, np.asarray(prediction.X), groups)
        inside = groups >= 0
        logger.info(
            "%s of %s cells are in spots of %r, and are scaled to the prediction of their spot.",
            *(f"{inside.sum():,}", f"{len(inside):,}", spots.shapes_key),
        )
    provenance = {"resolution": "cell", LEARNED: model.card.learned_from(features.image_hash)}
    return Prediction(view, expression, features_key, provenance)


def _spots(view: SlideView) -> SlideView | None:
    """Return the view of the only spots of known diameter in the image, or None."""
    sdata = view.sdata
    names = [
        key
        for key, shapes in sdata.shapes.items()
        if key != view.shapes_key and "radius" in shapes and PARENT not in shapes
    ]
    known = [
        key
        for key in names
        if share_coordinate_system(sdata, view.image_key, key) and known_diameter(sdata, key) is not None
    ]
    return replace(view, shapes_key=known[0]) if len(known) == 1 else None


def nearest_within(points: np.ndarray, centers: np.ndarray, reach: float) -> np.ndarray:
    """Return the number of the nearest center (m, 2) of each point (n, 2), and -1 if it is farther than `reach`."""
    from scipy.spatial import cKDTree

    found = cKDTree(centers).query(points, distance_upper_bound=reach * (1 + 1e-9))[1]
    return np.where(found < len(centers), found, -1)


def conserve_in_groups(children: np.ndarray, parents: np.ndarray, groups: np.ndarray) -> None:
    """Scale log1p expression of cells (n, genes) in place, so that their mean on counts is that of their spot.

    `parents` (m, genes) is that of the spots, `groups` (n,) the number of the spot of each cell, -1 for those in none,
    which stay. If all cells of a spot are 0, each gets the value of the spot.
    """
    rows = np.flatnonzero(groups >= 0)
    used, number = np.unique(groups[rows], return_inverse=True)
    members = csr_matrix((np.ones(len(rows)), (number, np.arange(len(rows)))), shape=(len(used), len(rows)))
    counts = np.expm1(np.maximum(children[rows], 0, dtype=np.float64))
    whole = np.expm1(np.maximum(parents[used], 0, dtype=np.float64))
    mean = (members @ counts) / np.bincount(number)[:, None]
    factor = np.divide(whole, mean, out=np.zeros_like(whole), where=mean > 0)
    children[rows] = np.log1p(np.where((mean > 0)[number], counts * factor[number], whole[number]))
