from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_positive
from deepspot._sdata.tables import check_shared_genes, match_rows
from deepspot._sdata.view import SlideView
from deepspot.errors import InputError
from deepspot.models._training.targets import targets
from deepspot.tl._predict.table import get_prediction, stored_prediction

from .align import MAX_GENES, MIN_SPOTS, Alignment, align
from .parts import align_parts, misplaced

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot


def check_alignment(
    sdata: SpatialData,
    model: DeepSpot | str | Path | None = None,
    *,
    prediction_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    encoder: str | Encoder | None = None,
    coordinate_system: str | None = None,
    max_shift: float = 3.0,
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> Alignment:
    """Find out whether measured spots lie where the image says: shifted, mirrored, turned, or x and y swapped.

    The measured spots are moved over those whose expression a model predicts from the image: by the 8 symmetries of the
    square about the middle of the spots, each with shifts in steps of half the distance between spots. Where at least
    half of the measured spots find a predicted one, the move is judged by the mean over genes of Pearson's r (of the
    model's genes, up to 200, those that are seen in most spots of the slide).

    A verdict needs an agreement that chance reaches in 1 % of cases at most, and the slide is only called misaligned if
    the lower 95 % bound of the gain is above 0: from a bootstrap over blocks of spots, with the choice among all moves
    allowed for. Where the prediction is poor, or the tissue looks the same after a move, the verdict is
    ``"undecided"``. A shift by one spot changes little, and may be missed where the prediction is poor. Where the spots
    lie wrongly in the image, the prediction is only known at these wrong places, and at least half of the right ones
    must lie among them.

    Then halves, quarters and smaller parts of at least 40 spots are judged in the same way, each on its own: a fold or
    a drift may misplace some spots and leave the others. If another place is surely better for a part, the verdict is
    ``"partly misaligned"``, and `misplaced` names the parts.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale, shapes, and measured genes.
    model
        From :func:`deepspot.models.train`, or the path of a bundle; None takes the embedded model. It must not have
        learned from this slide, or it has learned the mistake.
    prediction_key
        Table of predicted genes to take instead of a model, see :func:`deepspot.tl.predict`. By default it is the one
        that this model made, where there is one, and otherwise the genes are predicted (and not kept).
    table_key
        Measured genes; needed only if there are several such tables.
    layer
        Layer with the raw counts; by default `X`.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    encoder
        Encoder of the model, should it not be in the registry under the name in the model's card.
    coordinate_system
        Coordinate system to relate spots and image with, should they share several that disagree.
    max_shift
        Largest shift along x and along y, in distances between spots.
    seed
        Of the bootstrap and of chance. None falls back to the settings.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.

    Returns
    -------
    The finding, which prints as one line: its `verdict`, the `misplaced` parts, the `table` of all moves, the `best`,
    its `gain` and `gain_low`, and the `matrix` that would repair the coordinates. A feature table is added where there
    is none (see :func:`deepspot.pp.embed`). Nothing is moved.

    Raises
    ------
    ValueError
        If there are under 20 measured spots, the table measures under half of the predicted genes, none of them varies,
        counts are not raw, or a given prediction was made when the spots lay elsewhere.
    KeyError
        If a table or layer does not exist.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=6, n_cols=7)
    >>> options = {"genes": 20, "network": {"members": 1}, "training": {"epochs": 5}}
    >>> model = ds.models.train(slides["P1_S1"], **options)
    >>> alignment = ds.tl.check_alignment(slides["P2_S1"], model)
    >>> alignment.verdict in ("aligned", "misaligned", "partly misaligned", "undecided")
    True
    """
    from deepspot.models._registry import as_model

    check_positive(max_shift, "max_shift")
    if prediction_key is not None and model is not None:
        raise InputError("Pass `model` or `prediction_key`, not both: a table of predicted genes needs no model.")
    ready, tile_um = None, None
    if prediction_key is None:
        ready = as_model(model)
        tile_um = ready.geometry.tile.tile_um
    view = SlideView.select(sdata, image_key, shapes_key, coordinate_system=coordinate_system, tile_um=tile_um)
    table_key = view.measured_key(table_key)
    measured = view.measured(table_key, layer=layer).without_empty()
    if len(measured.rows) < MIN_SPOTS:
        raise InputError(
            f"Only {len(measured.rows)} spots of {view.shapes_key!r} have counts in table {table_key!r}, at least "
            f"{MIN_SPOTS} are needed to tell where they lie."
        )
    if ready is None:
        table = stored_prediction(view, str(prediction_key))
        check_shared_genes(list(table.var_names), sdata.tables[table_key], table_key)
    else:
        check_shared_genes(ready.card.genes, sdata.tables[table_key], table_key)
        table = get_prediction(view, ready, encoder, device=device, batch_size=batch_size)
    result = registration(view, measured, table, max_shift=max_shift, seed=seed)
    (logger.warning if result.is_wrong else logger.info)("%r", result)
    return result


def registration(
    view: SlideView,
    measured: MeasuredCounts,
    prediction: AnnData,
    *,
    max_shift: float = 3.0,
    seed: int | None = None,
) -> Alignment:
    """Judge where measured spots lie, as a whole and by parts.

    Parameters
    ----------
    view
        The slide.
    measured
        Counts of its spots that have any.
    prediction
        Table of its predicted genes.
    max_shift, seed
        As in :func:`check_alignment`.
    """
    table_rows, rows = match_rows(prediction, view.sdata, view.shapes_key)
    predicted = pd.DataFrame(np.asarray(prediction.X)[table_rows], columns=prediction.var_names)
    ours, theirs = _comparable(measured, predicted)
    fields = ours, view.centers_um[measured.rows], theirs, view.centers_um[rows]
    options: dict[str, Any] = {"max_shift": max_shift, "seed": settings.seed if seed is None else seed}
    result = align(*fields, **options)
    if result.verdict == "misaligned":
        return result
    wrong = misplaced(align_parts(*fields, **options))
    return replace(result, verdict="partly misaligned", misplaced=tuple(wrong)) if wrong else result


def _comparable(measured: MeasuredCounts, predicted: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Expression of the genes that are seen in most spots, chosen without a look at how well they are predicted."""
    genes = [gene for gene in predicted.columns if gene in measured.genes]
    ours, theirs = targets([measured], genes)[0][0], predicted[genes].to_numpy()
    vary = np.flatnonzero((np.ptp(ours, axis=0) > 0) & (np.ptp(theirs, axis=0) > 0))
    if len(vary) == 0:
        raise InputError(
            f"None of the {len(genes)} shared genes varies over the spots both as measured and as predicted, so "
            "nothing tells where the spots lie. Check the table, or take a model of other genes."
        )
    often = np.argsort(-(ours[:, vary] > 0).sum(axis=0), kind="stable")[:MAX_GENES]
    return ours[:, vary[often]], theirs[:, vary[often]]
