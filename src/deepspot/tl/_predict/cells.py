"""Prediction of cells, or of any shapes smaller than spots."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import LEARNED, PARENT, artifacts_name, key_in, nuclei_name, one_key, prediction_name
from deepspot._core.logging import logger
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._features.nuclei import check_nuclei
from deepspot._sdata.view import SlideView, known_diameter, spot_shapes
from deepspot._spatial.neighbors import nearest_within
from deepspot._spatial.transforms import share_coordinate_system
from deepspot.models._model import clip_expression, is_log, warn_of_impossible

from .resolution import conserve
from .stream import Parents, stream
from .table import Prediction, check_size, find_prediction, get_prediction, predict_in_blocks

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import Model


def cell_shapes(sdata: SpatialData, shapes_key: str | None, model: Model) -> str:
    """Return the name of the shapes of cells: by default the only ones that are no circles.

    Of a model whose spots have cells they are the nuclei that are its sub-spots.
    """
    if shapes_key is not None:
        return key_in(shapes_key, sdata.shapes, "sdata.shapes")
    if model.has_cells:
        known = model.geometry.tile.nuclei_key
        nuclei = [nuclei_name(key) for key in sdata.images] if known is None else [known]
        if found := [key for key in nuclei if key in sdata.shapes]:
            return one_key(None, found, "nuclei in sdata.shapes", "shapes_key")
    artifacts = {artifacts_name(key) for key in sdata.images}
    polygons = [key for key, shapes in sdata.shapes.items() if "radius" not in shapes and key not in artifacts]
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
    check_size(model, features.n_spots, "cell")
    known = _spots(features, model)
    if known is not None:
        model.features_of(known[0], encoder).plan()  # raises before the cells are embedded
    features_key = replace(features, only_central=True).plan().add(device=device, batch_size=batch_size)
    bags = bags_of(view.sdata, features_key, view.shapes_key, model.geometry.neighbors)
    expression = predict_in_blocks(model, bags, device=device)
    expression, above = clip_expression(model, expression, out=expression)
    warn_of_impossible(above, expression.size)
    if known is not None:
        spots, diameter = known
        prediction = get_prediction(spots, model, encoder, device=device, batch_size=batch_size)
        conserve(expression, prediction.X, _rows_of_cells(view, spots, prediction, diameter))
    provenance = {"resolution": "cell", LEARNED: model.card.learned_from(features.image_hash)}
    return Prediction(view, expression, features_key, provenance)


def stream_cells(
    features: SlideFeatures,
    model: Model,
    encoder: str | Encoder | None,
    out: Path,
    key: str,
    *,
    rounded: bool,
    overwrite: bool,
    **compute: Any,
) -> AnnData:
    """Predict cells as :func:`predict_cells`, but to a store. Their spots are predicted to a temporary store before."""
    view, central = features.view, replace(features, only_central=True)
    known = _spots(features, model)
    options: dict[str, Any] = {"rounded": rounded, "overwrite": overwrite, "resolution": "cell"} | compute
    if known is None:
        return stream(central, model, out, key, **options)
    spots, diameter = known
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-spots-") as scratch:
        found = find_prediction(spots, model)
        if found is None:
            of_spots, name = model.features_of(spots, encoder), prediction_name(spots.shapes_key)
            store = Path(scratch) / "spots.zarr"
            prediction = stream(of_spots, model, store, name, rounded=False, overwrite=False, **compute)
        else:
            prediction = spots.sdata.tables[found]
        parents = Parents(prediction, _rows_of_cells(view, spots, prediction, diameter))
        return stream(central, model, out, key, parents=parents, **options)


def _rows_of_cells(view: SlideView, spots: SlideView, prediction: AnnData, diameter: float) -> np.ndarray:
    """Return the row (n,) of the predicted spot that each cell is in, and -1 if it is in none."""
    rows = nearest_within(view.centers, np.asarray(prediction.obsm["spatial"]), diameter / view.mpp / 2)
    logger.info(
        "%s of %s cells are in spots of %r, and are scaled to the prediction of their spot.",
        *(f"{(rows >= 0).sum():,}", f"{len(rows):,}", spots.shapes_key),
    )
    return rows


def _spots(features: SlideFeatures, model: Model) -> tuple[SlideView, float] | None:
    """Return the view of the spots to which cells are scaled, and their diameter in µm; None and a warning without."""
    if not is_log(model.card.scale):
        logger.warning("The scale %r cannot be summed, so the cells are not scaled to their spots.", model.card.scale)
        return None
    known = only_spots(features.view)
    if known is None:
        logger.warning(
            "There is no single set of spots of known diameter, so the cells are not scaled to spots. "
            "`ds.pp.spots` places spots, and `ds.pp.pool` makes them from measured cells."
        )
    elif replace(features, view=known[0]).by_nuclei:
        check_nuclei(known[0], features.geometry)
    return known


def only_spots(view: SlideView) -> tuple[SlideView, float] | None:
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
