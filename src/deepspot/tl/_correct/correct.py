from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from deepspot._core.keys import UNS, corrected_name, key_in
from deepspot._core.logging import logger
from deepspot._sdata.tables import check_shared_genes
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_table, check_new_key
from deepspot.errors import InputError
from deepspot.tl._alignment.align import MIN_SPOTS
from deepspot.tl._alignment.check_alignment import registration
from deepspot.tl._predict.table import get_prediction

from .table import corrected_table, genes_to_keep

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

Method = Literal["posterior", "replace"]


def correct(
    sdata: SpatialData,
    model: DeepSpot | str | Path | None = None,
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
    """Denoise measured genes with what the image lets expect, or replace them by it.

    ``method="posterior"`` is for shallow counts. It takes the true rate of a gene in a spot to lie about the predicted
    one, as far away as rates lay from out-of-fold predictions in training (the residual variance of the gene, less the
    counting noise inside it), and counts to be Poisson about the true rate times the depth of the spot. The corrected
    value mixes what was measured and what is expected by these two kinds of noise::

        expected = level shift · predicted rate
        weight = dispersion · expected · depth / (1 + dispersion · expected · depth)
        corrected = log1p(weight · measured rate + (1 - weight) · expected)

    with rates in counts per 10,000 and the depth of the spot in units of 10,000 counts. So deep spots, abundant genes
    and genes that the image tells little of keep their measurement; shallow ones move towards the prediction. The level
    shift is a factor for each gene, its counts on the slide relative to the predicted ones: slides of other patients
    have more or less of a gene on the whole, predictions of mean logarithms lie below mean counts, and the total of a
    slide tells how much even where its spots are shallow. So corrected rates have the level of the counts, and not that
    of the prediction.

    Counts in the wrong place are not noisy, and a posterior would trust them. So the registration of the slide and of
    its parts is checked first (:func:`deepspot.tl.check_alignment`). ``method="replace"`` is for such slides: it takes
    the prediction alone, as the paper does.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale, shapes, and measured genes. The measured table is not changed.
    model
        From :func:`deepspot.models.train`, or the path of a bundle; None takes the embedded model. It must not have
        learned from this slide, or its prediction holds the measured noise.
    method
        ``"posterior"`` or ``"replace"``.
    genes
        Genes to keep in the new table; by default all that were measured.
    check_registration
        Check the registration before a posterior. False trusts that counts lie where they belong.
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
    key_added
        Name of the new table, by default ``<measured table>_corrected``.
    overwrite
        Replace a table of that name.
    seed
        Of the registration check. None falls back to the settings.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.

    Returns
    -------
    None. Adds a feature table, unless there is one (see :func:`deepspot.pp.embed`), and a table with one row for each
    measured spot, in the order of the shapes, also those without any count. All is float32 and of shape (n, genes), on
    the scale log1p of counts per 10,000:

    `X` and ``layers["corrected"]``
        The result. Genes that the model lacks are left as measured; a replaced table leaves them out, as they may lie
        in the wrong place.
    ``layers["measured"]``, ``layers["predicted"]``
        What it was made of; predicted is NaN for genes that the model lacks.
    ``layers["weight"]``
        Share of the measurement, 0 to 1: 0 is the prediction alone, 1 the measurement alone.
    ``layers["change"]``
        Corrected minus measured.
    ``var["in_model"]``, ``var["dispersion"]``, ``var["level_shift"]``
        Whether the model predicts the gene (bool), and the numbers of the formula (float32; NaN for genes that it
        lacks; not in a replaced table). The columns of the measured and of the predicted table come along.
    ``obs["depth"]``
        Counts of the spot (float32). The columns of the measured and of the predicted table come along.
    ``obsm["spatial"]``, ``uns["log1p"]``
        As in :func:`deepspot.tl.predict`.
    ``uns["deepspot"]``
        That of the prediction, and `method`, `measured` (name of that table), `layer`, `registration` (what the check
        found) and `in_model` (how many genes).

    Raises
    ------
    ValueError
        If counts do not lie where the image says, and a posterior is asked for; if the model does not know the
        dispersion of its genes; if counts are not raw, under half of the model's genes were measured, or the result
        would be larger than `settings.max_table_gb`.
    KeyError
        If a table, layer or gene does not exist.

    References
    ----------
    DeepSpot, section 4.4.1 (``method="replace"``). The posterior is that of a Gamma-Poisson model, as in Huang et al.,
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
    ['change', 'corrected', 'measured', 'predicted', 'weight']
    """
    from deepspot.models._registry import as_model

    key_in(method, get_args(Method), "methods")
    ready = as_model(model)
    view = SlideView.select(
        sdata, image_key, shapes_key, coordinate_system=coordinate_system, tile_um=ready.geometry.tile.tile_um
    )
    table_key = view.measured_key(table_key)
    key = key_added or corrected_name(table_key)
    check_new_key(sdata, key, overwrite=overwrite)
    spread = ready.residuals() if method == "posterior" else None
    check_shared_genes(ready.card.genes, sdata.tables[table_key], table_key)
    measured = view.measured(table_key, layer=layer)
    kept = genes_to_keep(view, measured, genes, ready.card.genes, replace=method == "replace")

    prediction = get_prediction(view, ready, encoder, device=device, batch_size=batch_size)
    found = "not checked"
    if spread is not None and check_registration:
        found = _registration(view, measured, prediction, seed)
    table = corrected_table(view, measured, prediction, kept, spread)
    table.uns[UNS] |= {"method": method, "registration": found}
    add_table(sdata, key, table, what=f"{'replaced' if spread is None else 'corrected'} genes", overwrite=overwrite)
    lacking = int((~table.var["in_model"]).sum())
    if lacking:
        logger.info("Left %s genes that the model lacks as measured.", f"{lacking:,}")


def _registration(view: SlideView, measured: MeasuredCounts, prediction: AnnData, seed: int | None) -> str:
    """What the registration check finds, in a sentence; raise if counts lie in the wrong place."""
    counted = measured.without_empty()
    if len(counted.rows) < MIN_SPOTS:
        logger.warning("With %d spots nobody can tell whether counts lie where they belong.", len(counted.rows))
        return "too few spots to check"
    found = registration(view, counted, prediction, seed=seed)
    if found.is_wrong:
        mend = "Leave these spots out" if found.misplaced else "Mend the coordinates (`ds.tl.check_alignment` says how)"
        raise InputError(
            f"{found!r}. A posterior would trust such counts. {mend}, take `method='replace'`, or, should "
            "the check be wrong, `check_registration=False`."
        )
    if found.verdict == "undecided":
        logger.warning("%r. The correction trusts that they do.", found)
    return repr(found)
