from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from deepspot._core.keys import PREDICTION, prediction_name, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_genes
from deepspot._sdata.tables import tables_of_kind
from deepspot._sdata.view import SlideView

from .plan import Plan

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot


def predict(sdata: SpatialData, plan: Plan, shapes_key: str) -> tuple[str, DeepSpot | None]:
    """Predict the genes of a slide, unless that was done.

    Parameters
    ----------
    sdata
        The slide.
    plan
        What was asked for. Without a model a prediction that is there is taken as it is.
    shapes_key
        The spots.

    Returns
    -------
    Name of the table, and the model if it was loaded.

    Raises
    ------
    KeyError
        If a gene to draw is not one of those that are predicted, before any are.
    ValueError
        If no model was named and there are several predictions.
    """
    from deepspot import models, tl
    from deepspot.tl._predict.table import find

    made = tables_of_kind(sdata, shapes_key, PREDICTION)
    if plan.model is None and made:
        if len(made) > 1:
            raise ValueError(
                f"The slide holds several predictions: {sorted(made)}. Name the model of one with --model."
            )
        (key,) = made
        _check_genes(plan, sdata.tables[key].var_names)
        logger.info("Using sdata.tables[%r], which the slide holds.", key)
        return key, None
    model = models.load(plan.model)
    _check_genes(plan, model.card.genes)
    found = find(SlideView.select(sdata, plan.image_key, shapes_key), model)
    if found is not None:
        return found, model
    usual = prediction_name(shapes_key)
    key = usual if usual not in sdata.tables else valid_name(f"{usual}_{model.fingerprint}")
    tl.predict(sdata, model, image_key=plan.image_key, shapes_key=shapes_key, key_added=key)
    return key, model


def _check_genes(plan: Plan, known: Iterable[str]) -> None:
    """Raise before the long work if a gene is unknown."""
    if plan.genes:
        check_genes(plan.genes, known, "the prediction")
