from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive, check_seed
from deepspot._sdata.tables import check_shared_genes, comparable_scale, match_rows
from deepspot._sdata.view import SlideView
from deepspot.errors import InputError
from deepspot.models._training.targets import targets
from deepspot.tl._predict.table import get_prediction, learned_from, stored_prediction

from .align import MIN_SPOTS, Alignment
from .parts import align_with_parts

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot._stats.normalize import Scale
    from deepspot.encoders import Encoder
    from deepspot.models import Model

MAX_SHIFT = 20
"""More moves do not fit into memory."""


@checked
def check_alignment(
    sdata: SpatialData,
    model: Model | str | Path | None = None,
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
    """Check the registration: whether the measured spots are at the right place in the image.

    Detects shifts, mirror images, rotations, and swapped x and y. The measured spots are moved over the spots that a
    model predicts from the image: by the 8 symmetries of the square about the center of the spots, each with shifts in
    steps of half the distance between spots. If at least half of the measured spots overlap with predicted spots, the
    score of the move is the mean over genes of Pearson r. It uses up to 200 genes of the model, those that are detected
    in most spots of the slide.

    The verdicts aligned and misaligned need a correlation with p ≤ 0.01 under the null models. A slide is misaligned if
    the lower 95 % confidence bound of the gain is above 0; the bound comes from a bootstrap over blocks of spots and is
    corrected for the choice among all moves. If the prediction is poor, or the tissue looks the same after a move, the
    verdict is ``"undecided"``. A shift by one spot has little effect and may be missed. The prediction is known only at
    the spots of the slide, so at least half of the true places must be among them.

    Then halves, thirds, quarters and smaller parts of at least 40 spots are checked: a fold or a drift may misplace
    only some spots. For this, the 200 genes with the largest predicted variance are used. If another place is better
    for a part by 4 standard deviations more than on simulated aligned slides, and another part is aligned, the
    verdict is ``"partly misaligned"``. Then `misplaced` names the parts, and `misplaced_spots` the spots of the
    part that stands out most. Some misplaced parts are not noticed (``benchmarks/results/alignment_parts.md``). A
    misaligned slide is only partly misaligned if it is aligned without a half, third or quarter, if the rest does not
    fit better after the best move of the slide, and if the part alone fits clearly better at another place.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale, shapes, and measured genes.
    model
        Model from :func:`deepspot.models.train`, or the path of a bundle; None is the embedded model. It must not be
        trained on this slide, because it would learn the misalignment.
    prediction_key
        Table of predicted genes to use instead of a model, see :func:`deepspot.tl.predict`. The default is the table
        that `model` made, if there is one; otherwise the genes are predicted (and not kept).
    table_key
        Table of measured genes; needed only if there are several.
    layer
        Layer with the raw counts; by default `X`.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    encoder
        Encoder of the model, if it is not registered under the name in the model card.
    coordinate_system
        Coordinate system that relates spots and image, if they share several that disagree.
    max_shift
        Largest shift along x and y, in distances between spots.
    seed
        Seed of the bootstrap and the null models. None uses the settings.
    device
        Device; None uses the settings, then CUDA, MPS, CPU.
    batch_size
        Tiles per batch of the encoder; None uses the settings.

    Returns
    -------
    The result, which prints as one line: its `verdict`, the `misplaced` parts and `misplaced_spots`, the `table` of all
    moves, the `best` move, its `gain` and `gain_low`, and the `matrix` that corrects the coordinates. A
    feature table is added if there is none (see :func:`deepspot.pp.embed`). The spots are not moved.

    Raises
    ------
    ValueError
        If there are fewer than 20 measured spots, the table measures less than half of the predicted genes, none of
        them varies, counts are not raw, or a given prediction was made for other positions of the spots.
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

    if check_positive(max_shift, "max_shift") > MAX_SHIFT:
        raise InputError(f"`max_shift` must be at most {MAX_SHIFT} distances between spots, got {max_shift}.")
    if prediction_key is not None and model is not None:
        raise InputError("Pass `model` or `prediction_key`, not both.")
    ready, tile_um = None, None
    if prediction_key is None:
        ready = as_model(model)
        tile_um = ready.geometry.tile.tile_um
    view = SlideView.select(
        sdata, image_key, shapes_key, coordinate_system=coordinate_system, tile_um=tile_um, needs_image=False
    )
    table_key = view.measured_key(table_key)
    measured = view.measured(table_key, layer=layer).without_empty()
    if len(measured.rows) < MIN_SPOTS:
        raise InputError(
            f"Only {len(measured.rows)} spots of {view.shapes_key!r} have counts in table {table_key!r}, at least "
            f"{MIN_SPOTS} are needed to check their registration."
        )
    if ready is None:
        table = stored_prediction(view, str(prediction_key))
        check_shared_genes(list(table.var_names), sdata.tables[table_key], table_key)
    else:
        check_shared_genes(ready.card.genes, sdata.tables[table_key], table_key)
        table = get_prediction(view, ready, encoder, default=model is None, device=device, batch_size=batch_size)
    if learned_from(table, measured) == "yes":
        logger.warning(
            "The model learned from this slide, including any misplaced spots, so the check may not find them. Use a "
            "model that was trained on other slides."
        )
    result = registration(view, measured, table, max_shift=max_shift, seed=seed)
    (logger.warning if result.is_misaligned else logger.info)("%r", result)
    return result


def registration(
    view: SlideView,
    measured: MeasuredCounts,
    prediction: AnnData,
    *,
    max_shift: float = 3.0,
    seed: int | None = None,
) -> Alignment:
    """Check the registration of a slide and of its parts, from counts and from a table of predicted genes."""
    table_rows, rows = match_rows(prediction, view.sdata, view.shapes_key)
    values = pd.DataFrame(np.asarray(prediction.X)[table_rows], columns=prediction.var_names)
    a, b = _comparable(measured, values, comparable_scale(prediction))
    places = view.centers_um[measured.rows], view.centers_um[rows]
    result, spots = align_with_parts(a, places[0], b, places[1], max_shift=max_shift, seed=check_seed(seed))
    return replace(result, misplaced_spots=view.index[measured.rows[spots]])


def _comparable(measured: MeasuredCounts, predicted: pd.DataFrame, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Return measured and predicted expression of the shared genes that vary, on the scale of the prediction."""
    genes = [gene for gene in predicted.columns if gene in measured.genes]
    a, b = targets([measured], genes, scale)[0][0], predicted[genes].to_numpy()
    vary = np.flatnonzero((np.ptp(a, axis=0) > 0) & (np.ptp(b, axis=0) > 0))
    if len(vary) == 0:
        raise InputError(
            f"None of the {len(genes)} shared genes varies over the spots both as measured and as predicted, so "
            "the registration cannot be checked. Check the table, or use a model of other genes."
        )
    return a[:, vary], b[:, vary]
