"""Prediction of cells, or of any shapes smaller than spots."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import (
    DIAMETER,
    LEARNED,
    PARENT,
    PREDICTION,
    UNS,
    artifacts_name,
    key_in,
    nuclei_name,
    one_key,
    prediction_name,
)
from deepspot._core.logging import logger
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._features.nuclei import check_nuclei
from deepspot._features.stored import SAME_TILE, same_tile
from deepspot._sdata.tables import is_deepspot_table, tables_annotating, tables_of_kind
from deepspot._sdata.view import NOUNS, SlideView, known_diameter, spot_shapes
from deepspot._spatial.neighbors import array_layout, nearest_within
from deepspot._spatial.transforms import has_scale, pitch_px, share_coordinate_system, um_per_own_unit
from deepspot.errors import InputError
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
    hint = "Outline nuclei with `ds.pp.nuclei(sdata)`, or name circles of cells as `shapes_key=`."
    return one_key(None, cells or polygons, "polygons in sdata.shapes", "shapes_key", hint)


def check_cells(view: SlideView, model: Model) -> None:
    """Raise if shapes are circles that are spots: as wide as the tile of the model, or a regular array of its pitch."""
    sdata, key, shapes = view.sdata, view.shapes_key, view.sdata.shapes[view.shapes_key]
    if "radius" not in shapes:
        return
    width = None
    if DIAMETER in shapes:
        width = float(shapes[DIAMETER].median())
    elif has_scale(sdata, key):
        width = 2 * float(shapes["radius"].median()) * um_per_own_unit(sdata, key)
    wide = width is not None and width >= (1 - SAME_TILE) * model.geometry.tile.tile_um
    pitch = model.geometry.neighbors.pitch_um
    if not wide and pitch is not None and len(shapes) > 1 and array_layout(view.centers_um) is not None:
        wide = pitch_px(view.centers) * view.mpp >= (1 - SAME_TILE) * pitch
    if wide:
        size = "in an array" if width is None else f"{width:.3g} µm wide"
        raise InputError(
            f"The circles {key!r} are {size}: they are spots of model {model.card.name!r}, and no cells in its spots. "
            "Outline nuclei with `ds.pp.nuclei(sdata)`, or add polygons of cells, and pass these as `shapes_key`. "
            f"`resolution='spot'` predicts {key!r}."
        )


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
        found = find_prediction(spots, model, encoder)
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
    if not (rows >= 0).any():
        logger.warning(
            "None of %s of %r is in a spot of %r, so none is scaled to its spot. Check that both are of the same part "
            "of the slide.",
            *(NOUNS["cell"].count(len(rows)), view.shapes_key, spots.shapes_key),
        )
        return rows
    logger.info(
        "%s of %s in spots of %r: these are scaled to the prediction of their spot.",
        *(f"{(rows >= 0).sum():,}", NOUNS["cell"].count(len(rows)), spots.shapes_key),
    )
    return rows


def _spots(features: SlideFeatures, model: Model) -> tuple[SlideView, float] | None:
    """Return the view of the spots to which cells are scaled, and their diameter in µm; None and a warning without."""
    if not is_log(model.card.scale):
        logger.warning("The scale %r cannot be summed, so the cells are not scaled to their spots.", model.card.scale)
        return None
    try:
        known = spots_of_cells(features.view, model)
    except InputError as error:
        logger.warning("The cells are not scaled to spots. %s", error)
        return None
    if replace(features, view=known[0]).by_nuclei:
        check_nuclei(known[0], features.geometry)
    return known


def spots_of_cells(view: SlideView, model: Model) -> tuple[SlideView, float]:
    """Return the view of the spots in which cells are, and their diameter in µm; InputError if they are not clear.

    They are the only circles of known diameter. Of several they are those that the model predicted, or else the only
    ones of its size, or else of these the only ones with measured genes.
    """
    sdata, tile_um = view.sdata, model.geometry.tile.tile_um
    known = {
        key: diameter
        for key in spot_shapes(sdata)
        if key != view.shapes_key and share_coordinate_system(sdata, view.image_key, key)
        if (diameter := known_diameter(sdata, key)) is not None
    }
    if not known:
        raise InputError(
            "There are no spots of known diameter. `ds.pp.spots` places spots, and `ds.pp.pool` makes them from "
            "measured cells."
        )
    keys, chosen_by = list(known), ""
    predicted = [key for key in keys if _is_predicted(sdata, key, model)]
    fitting = [key for key in keys if same_tile(known[key], tile_um)]
    measured = [
        key
        for key in fitting
        if not all(is_deepspot_table(sdata.tables[table]) for table in tables_annotating(sdata, key))
    ]
    for found, reason in (
        (predicted, "this model predicted them"),
        (fitting, f"they alone have the {tile_um:g} µm of the model"),
        (measured, f"they alone have the {tile_um:g} µm of the model and measured genes"),
    ):
        if len(keys) > 1 and len(found) == 1:
            keys, chosen_by = found, reason
    if len(keys) > 1:
        remedy = f"Predict those you mean before the cells: `ds.tl.predict(sdata, model, shapes_key={keys[-1]!r})`."
        if predicted:
            remedy = f"This model predicted {predicted}: delete the predicted tables of those that you do not mean."
        raise InputError(f"There are several sets of spots in which the cells could be: {keys}. {remedy}")
    if chosen_by:
        logger.info("Of the spots %s, the cells are in %r: %s.", list(known), keys[0], chosen_by)
    return replace(view, shapes_key=keys[0]), known[keys[0]]


def _is_predicted(sdata: SpatialData, shapes_key: str, model: Model) -> bool:
    """Return whether a table has the prediction of the spots by the model."""
    made = (sdata.tables[key].uns[UNS] for key in tables_of_kind(sdata, shapes_key, PREDICTION))
    return any(uns.get("fingerprint") == model.fingerprint and uns.get("resolution", "spot") == "spot" for uns in made)
