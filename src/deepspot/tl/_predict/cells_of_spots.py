"""Prediction of the cells of spots, by models whose spots consist of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import LEARNED, PARENT
from deepspot._core.logging import logger
from deepspot._features.feature_table import bags_of
from deepspot._features.nuclei import check_nuclei
from deepspot.errors import InputError
from deepspot.models._cells import CellSum

from .cells import spots_of_cells
from .table import BLOCK_SIZE, Prediction, check_size, in_blocks

if TYPE_CHECKING:
    from deepspot._features.nuclei import NucleiOfSpots
    from deepspot._sdata.view import SlideView
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot2Cell


def predict_cells_of_spots(
    view: SlideView,
    spots: SlideView,
    model: CellSum | DeepSpot2Cell,
    encoder: str | Encoder | None,
    *,
    device: str | None,
    batch_size: int | None,
) -> Prediction:
    """Predict the cells of a view that are in `spots`, see `spots_with_cells`, from the bags of these spots."""
    features = model.features_of(spots, encoder)
    nuclei = features.nuclei
    check_size(model, len(nuclei.rows), "cell", copies=2)
    key = features.plan().add(device=device, batch_size=batch_size)
    bags = bags_of(spots.sdata, key, spots.shapes_key, model.geometry.neighbors)
    expression = np.empty((len(nuclei.rows), len(model.card.genes)), dtype=np.float32)
    for rows, block in in_blocks(bags, BLOCK_SIZE):
        own = model.expression_of_cells(block, device=device, rows=np.arange(len(rows)))
        expression[nuclei.of(rows)] = own
    kept, parents = _nearest(nuclei, spots.centers)
    logger.info(
        "%s of %s cells are in spots of %r and are predicted; the others are left out.",
        *(f"{len(kept):,}", f"{len(view.centers):,}", spots.shapes_key),
    )
    if len(kept) < len(nuclei.rows):
        logger.info(
            "%s cells are in several spots, and get the value of the nearest.", f"{len(nuclei.rows) - len(kept):,}"
        )
    provenance = {"resolution": "cell", LEARNED: model.card.learned_from(features.image_hash)}
    return Prediction(
        view,
        expression[kept],
        key,
        provenance,
        parents,
        rows=nuclei.rows[kept],
        obs={PARENT: spots.index[parents].to_numpy()},
    )


def spots_with_cells(view: SlideView, model: CellSum | DeepSpot2Cell) -> SlideView:
    """Return the view of the spots whose cells are those of a view; raise if these are not the nuclei of the model."""
    nuclei_key = check_nuclei(view, model.geometry.tile)
    if nuclei_key != view.shapes_key:
        raise InputError(
            f"The cells of model {model.card.name!r} are the nuclei {nuclei_key!r}, not {view.shapes_key!r}. Pass "
            f"`shapes_key={nuclei_key!r}`."
        )
    try:
        return spots_of_cells(view, model)[0]
    except InputError as error:
        raise InputError(f"Model {model.card.name!r} predicts the cells of spots. {error}") from error


def _nearest(nuclei: NucleiOfSpots, spots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each nucleus once, in the order of the shapes: its position in `nuclei.rows`, and its nearest spot."""
    owner = np.repeat(np.arange(len(nuclei.number)), nuclei.number)
    distance = np.linalg.norm(nuclei.centers - spots[owner], axis=1)
    order = np.lexsort((distance, nuclei.rows))
    first = np.unique(nuclei.rows[order], return_index=True)[1]
    return order[first], owner[order[first]]
