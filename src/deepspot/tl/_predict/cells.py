"""Prediction of cells, or of any shapes smaller than spots."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import LEARNED, PARENT, key_in, one_key
from deepspot._core.logging import logger
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._features.nuclei import check_nuclei
from deepspot._sdata.view import SlideView, known_diameter, spot_shapes
from deepspot._spatial.neighbors import nearest_within
from deepspot._spatial.transforms import share_coordinate_system
from deepspot.models._model import clip_expression, is_log, warn_of_impossible

from .resolution import conserve
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
    cells = [key for key in polygons if PARENT not in sdata.shapes[key]]  # not the nuclei of cells
    return one_key(None, cells or polygons, "polygons in sdata.shapes", "shapes_key")


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
    known = spots_of(view)
    if known is not None and replace(features, view=known[0]).by_nuclei:
        check_nuclei(known[0], features.geometry)
    features_key = replace(features, only_central=True).plan().add(device=device, batch_size=batch_size)
    bags = bags_of(view.sdata, features_key, view.shapes_key, model.geometry.neighbors)
    expression, above = clip_expression(model, predict_in_blocks(model, bags, device=device))
    warn_of_impossible(above, expression.size)
    if not is_log(model.card.scale):
        logger.warning("The scale %r cannot be summed, so the cells are not scaled to their spots.", model.card.scale)
    elif known is None:
        logger.warning(
            "There is no single set of spots of known diameter, so the cells are not scaled to spots. "
            "`ds.pp.spots` places spots, and `ds.pp.pool` makes them from measured cells."
        )
    else:
        spots, diameter = known
        prediction = get_prediction(spots, model, encoder, device=device, batch_size=batch_size)
        groups = nearest_within(view.centers, np.asarray(prediction.obsm["spatial"]), diameter / view.mpp / 2)
        conserve(expression, np.asarray(prediction.X), groups)
        inside = groups >= 0
        logger.info(
            "%s of %s cells are in spots of %r, and are scaled to the prediction of their spot.",
            *(f"{inside.sum():,}", f"{len(inside):,}", spots.shapes_key),
        )
    provenance = {"resolution": "cell", LEARNED: model.card.learned_from(features.image_hash)}
    return Prediction(view, expression, features_key, provenance)


def spots_of(view: SlideView) -> tuple[SlideView, float] | None:
    """Return the view of the only spots of known diameter in the image, and this diameter in µm, or None."""
    sdata = view.sdata
    known = {
        key: diameter
        for key in spot_shapes(sdata)
        if key != view.shapes_key and share_coordinate_system(sdata, view.image_key, key)
        if (diameter := known_diameter(sdata, key)) is not None
    }
    if len(known) != 1:
        return None
    key, diameter = next(iter(known.items()))
    return replace(view, shapes_key=key), diameter
