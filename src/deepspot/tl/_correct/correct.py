from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import pandas as pd

from deepspot._core.keys import LEARNED, UNS, checked, corrected_name, key_in
from deepspot._core.logging import logger
from deepspot._sdata.tables import check_shared_genes
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_table, check_new_key
from deepspot._stats.normalize import SCALES, known_scale
from deepspot.errors import InputError
from deepspot.tl._alignment.align import MIN_SPOTS
from deepspot.tl._alignment.check_alignment import registration
from deepspot.tl._predict.table import get_prediction, learned_from

from .table import corrected_table, genes_to_keep

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot.encoders import Encoder
    from deepspot.models import Model

Method = Literal["posterior", "replace"]


@checked
def correct(
    sdata: SpatialData,
    model: Model | str | Path | None = None,
    *,
    method: Method = "posterior",
    genes: Sequence[str] | None = None,
    check_registration: bool = True,
    table_key: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    encoder: str | Encoder | None = None,
    coordinate_system: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> None:
    """Denoise measured genes with a prediction, or replace them by it.

    ``method="posterior"`` is for shallow counts. The true rate of a gene in a spot is assumed to vary around the
    predicted rate as much as around the out-of-fold predictions in training: by the residual variance of the gene
    without counting noise (its dispersion). Counts are assumed to be Poisson with the true rate times the depth of the
    spot. The corrected rate weights measurement and expectation by these two sources of noise::

        expected = level shift · predicted rate
        weight = dispersion · expected · depth / (1 + dispersion · expected · depth)
        corrected rate = weight · measured rate + (1 - weight) · expected

    Rates are in counts per 10,000, and the depth of a spot is in units of 10,000 counts (on another scale in its unit;
    on that of raw counts, the depth of the formula is 1). Deep spots, abundant genes and poorly predicted genes keep
    their measurement; shallow ones move towards the prediction. The level shift is a factor
    for each gene, its counts on the slide relative to the predicted counts: slides of other patients differ in the
    level of a gene, and predictions of mean logarithms are lower than mean counts. The total of a slide determines the
    level even if its spots are shallow. No level from the training is used.

    The corrected value on the log scale is not the logarithm of this rate, which would depend on the depth of the spot.
    It is the expected value of log1p of the counts per 10,000 in another measurement of the spot, with 10,000 counts.
    It has the smallest squared error, and shallow and deep spots have the same level. As every mean of logarithms it is
    lower than the logarithm of the mean: take ``layers["rate"]`` for sums and means of rates.

    Misplaced counts are not noisy, and the posterior would keep them. Therefore the registration of the slide and of
    its parts is checked first (:func:`deepspot.tl.check_alignment`). If a part is misplaced, its spots are predicted,
    with the level shift of the other spots, and the other spots are corrected as usual; ``obs["source"]`` says which.
    If the whole slide is misplaced, an error is raised. ``method="replace"`` is for such slides: as in the paper, it
    uses the prediction only.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale, shapes, and measured genes. The measured table is not changed.
    model
        Model from :func:`deepspot.models.train`, or the path of a bundle; None is the embedded model. It must not be
        trained on this slide, because its prediction would contain the measured noise.
    method
        ``"posterior"`` or ``"replace"``.
    genes
        Genes of the new table; by default all measured genes.
    check_registration
        Check the registration before the posterior is computed.
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
    key_added
        Name of the new table, by default ``<measured table>_corrected``.
    overwrite
        Replace an existing table of this name.
    seed
        Seed of the registration check. None uses the settings.
    device
        Device; None uses the settings, then CUDA, MPS, CPU.
    batch_size
        Tiles per batch of the encoder; None uses the settings.

    Returns
    -------
    None. Adds a feature table if there is none (see :func:`deepspot.pp.embed`), and a table with one row for each
    measured spot, in the order of the shapes, including spots without counts. All matrices are float32 (n, genes), on
    the scale of the model, by default log1p of counts per 10,000, unless stated otherwise:

    `X` and ``layers["corrected"]``
        The result. Genes that the model lacks keep their measurement; with ``method="replace"`` they are left out, as
        they may be misplaced.
    ``layers["measured"]``, ``layers["predicted"]``
        Measurement and prediction; the prediction is NaN for genes that the model lacks.
    ``layers["rate"]``
        Corrected rate, by default in counts per 10,000, not on the log scale. Its level is that of the counts on the
        slide. With ``method="replace"``, `expm1` of the prediction.
    ``layers["weight"]``
        Weight of the measurement, from 0 (prediction only) to 1 (measurement only).
    ``layers["change"]``
        Corrected minus measured.
    ``var["in_model"]``, ``var["dispersion"]``, ``var["level_shift"]``
        Whether the model predicts the gene (bool), and the numbers of the formula (float32; NaN for genes that it
        lacks; not with ``method="replace"``). The columns of the measured and of the predicted table are kept.
    ``obs["source"]``
        Categorical: ``"counts and prediction"``, ``"prediction: no counts"``, ``"prediction: misplaced"`` (spots of a
        misplaced part; genes that the model lacks are NaN in them), or ``"prediction: method"`` for
        ``method="replace"``.
    ``obs["depth"]``
        Counts of the spot (float32). The columns of the measured and of the predicted table are kept.
    ``obsm["spatial"]``, ``uns["log1p"]``
        As in :func:`deepspot.tl.predict`.
    ``uns["deepspot"]``
        That of the prediction, and `method`, `measured` (name of the measured table), `layer`, `registration` (result
        of the check) and `in_model` (number of genes).

    Raises
    ------
    ValueError
        If the whole slide is misplaced and `method` is ``"posterior"``; if the model has no dispersions or its scale is
        unknown; if counts are not raw, less than half of the model's genes were measured, or the result would be larger
        than `settings.max_table_gb`.
    KeyError
        If a table, layer or gene does not exist.

    References
    ----------
    DeepSpot, section 2.4 (``method="replace"``). The posterior is that of a gamma-Poisson model, as in Huang et al.,
    "SAVER: gene expression recovery for single-cell RNA sequencing", Nature Methods 2018, with the image in place of
    other genes.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=6, n_cols=7)
    >>> options = {"genes": 20, "network": {"members": 1}, "training": {"epochs": 5}}
    >>> model = ds.models.train(slides["P1_S1"], **options)
    >>> ds.tl.correct(slides["P2_S1"], model, check_registration=False)
    >>> sorted(slides["P2_S1"].tables["table_corrected"].layers)
    ['change', 'corrected', 'measured', 'predicted', 'rate', 'weight']
    """
    from deepspot.models._registry import as_model

    key_in(method, get_args(Method), "methods")
    ready = as_model(model)
    if known_scale(ready.card.scale) is None:
        raise InputError(
            f"Model {ready.card.name!r} predicts on the scale {ready.card.scale!r}, and counts are corrected on one of "
            f"{[scale.text for scale in SCALES.values()]}. Fit it to measured slides first: "
            "`ds.models.calibrate(model, slides, correction='affine')`."
        )
    view = SlideView.select(
        sdata,
        image_key,
        shapes_key,
        coordinate_system=coordinate_system,
        tile_um=ready.geometry.tile.tile_um,
        needs_image=False,
    )
    table_key = view.measured_key(table_key)
    key = key_added or corrected_name(table_key)
    check_new_key(sdata, key, overwrite=overwrite)
    spread = ready.residuals() if method == "posterior" else None
    check_shared_genes(ready.card.genes, sdata.tables[table_key], table_key)
    measured = view.measured(table_key, layer=layer)
    kept = genes_to_keep(view, measured, genes, ready.card.genes, replace=method == "replace")

    prediction = get_prediction(view, ready, encoder, default=model is None, device=device, batch_size=batch_size)
    learned = prediction.uns[UNS][LEARNED] = learned_from(prediction, measured)
    if learned == "yes":
        logger.warning(
            "The model learned from this slide, including its noise and any misplaced spots, so the correction keeps "
            "some of them. Use a model that was trained on other slides."
        )
    checked, misplaced = "not checked", pd.Index([])
    if spread is not None and check_registration:
        checked, misplaced = _check_registration(view, measured, prediction, seed)
    table = corrected_table(view, measured, prediction, kept, spread, misplaced)
    table.uns[UNS] |= {"method": method, "registration": checked}
    add_table(sdata, key, table, what=f"{'replaced' if spread is None else 'corrected'} genes", overwrite=overwrite)
    lacking = int((~table.var["in_model"]).sum())
    if lacking:
        logger.info("%s genes that the model lacks keep their measurement.", f"{lacking:,}")


def _check_registration(
    view: SlideView, measured: MeasuredCounts, prediction: AnnData, seed: int | None
) -> tuple[str, pd.Index]:
    """Return the result of the registration check, and the misplaced spots; raise if the whole slide is misplaced."""
    counted = measured.without_empty()
    if len(counted.rows) < MIN_SPOTS:
        logger.warning("The registration cannot be checked with only %d spots.", len(counted.rows))
        return "too few spots to check", pd.Index([])
    result = registration(view, counted, prediction, seed=seed)
    if result.verdict == "misaligned":
        raise InputError(
            f"{result!r}. A posterior would keep such counts. Correct the coordinates (see `ds.tl.check_alignment`), "
            "use `method='replace'`, or, if the check is wrong, `check_registration=False`."
        )
    if result.verdict == "undecided":
        logger.warning("%r. The correction assumes that they do.", result)
    if result.misplaced:
        logger.warning(
            "%r. The counts of %d of %d spots are replaced by the prediction, see obs['source'].",
            *(result, len(result.misplaced_spots), len(counted.rows)),
        )
    return repr(result), result.misplaced_spots
