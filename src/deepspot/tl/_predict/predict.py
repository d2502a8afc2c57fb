from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from deepspot._core.keys import PARENT, UNS, checked, grid_name, key_in, prediction_name, subspots_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._sdata.view import NOUNS, SlideView
from deepspot._sdata.write import add_table, check_new_key
from deepspot._sdata.zarr_store import check_new_path, check_replaceable
from deepspot.errors import InputError, MissingKeyError
from deepspot.models._cells import CellSum, DeepSpot2Cell
from deepspot.models._confidence.ood import MANY_OOD

from .cells import cell_shapes, check_cells, predict_cells, stream_cells
from .cells_of_spots import predict_cells_of_spots, spots_with_cells
from .resolution import predict_grid, predict_subspots
from .stream import stream
from .table import Resolution, predict_spots, prediction_table

# Ratio of the width of shapes and tiles from which on they are different things.
UNLIKE = 2.5

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import Model


@checked
def predict(
    sdata: SpatialData,
    model: Model | str | Path | None = None,
    *,
    resolution: Resolution = "spot",
    grid_um: float | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    encoder: str | Encoder | None = None,
    coordinate_system: str | None = None,
    unclipped: bool = False,
    intervals: bool = False,
    out: str | Path | None = None,
    rounded: bool = False,
    key_added: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
) -> None:
    """Predict gene expression of spots, sub-spots, a grid or cells from the H&E image.

    Tiles of the physical size of the training are cut and embedded, unless the object has these features already.
    Neighbors are at the distances of the training, also on arrays of another pitch, bins and cells; a warning is logged
    if the spots are farther apart.

    At a finer `resolution`, the model, which was trained on whole spots, gets the same neighborhood around a smaller
    piece of tissue. Whether the result is better than the value of the spot is a question for
    :func:`evaluate_resolution`, with measured cells or bins as the truth. A sub-spot of 18 µm (of a Visium spot) or
    33 µm (Spatial Transcriptomics) contains several cells. Use a finer resolution to see where in a spot a pattern may
    be, and the spots for tests and numbers.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale and shapes. Measured genes are neither needed nor used.
    model
        Model of :func:`deepspot.models.train`, or anything that :func:`deepspot.models.load` takes. None loads the
        embedded model, which was trained on HER2-positive breast cancer of two patients.
    resolution
        Places to predict:

        ``"spot"``
            The shapes themselves.
        ``"subspot"``
            The 3 × 3 sub-spots of each spot, without further embedding. Each sub-spot takes the place of all nine; spot
            and neighbors stay the same. For every gene, the nine are then scaled so that their mean on the scale of
            counts (``expm1``) is the prediction of the spot (lower if a sub-spot was clipped).
        ``"grid"``
            Points of a square grid in and between the spots, by default four per distance between spots, as in the
            paper. A spot tile and its central sub-spot are embedded for each point: about 30 tiles per spot, compared
            with 10 of ``"spot"``. The neighbors of a point are grid points at the offsets from its nearest spot to the
            neighbors of that spot. The mean of the points in a spot can differ from the prediction of the spot.
        ``"cell"``
            The shapes named by `shapes_key`, which are smaller than spots: polygons of cells or nuclei, or bins. A spot
            tile around the center of each and its central sub-spot are embedded; neighbors are other cells at the
            distances of training. A model whose sub-spots are nuclei gets the tile of the cell itself as the only one
            of its spot. For every gene, the cells in a spot are then scaled so that their mean on the scale of counts
            is the prediction of the spot; other cells stay as they are. The spots are the only circles of known
            diameter. Of several, they are those that this model predicted, or else the only ones with the diameter of
            its tile, or else of these the only ones with measured genes; a log line names them. With
            :class:`deepspot.models.CellSum` and :class:`deepspot.models.DeepSpot2Cell`, the nuclei in spots are
            predicted from the bag of their spot, and other nuclei are left out. On the scale of counts, the mean of the
            cells of CellSum and the background add up to the prediction of the spot; with ``normalize="log1p_counts"``
            the sum of the cells and the background do. (Not where spots overlap, as a nucleus has the value of the
            nearest, and not where a value was clipped.)
    grid_um
        Distance between grid points in µm; by default a quarter of the distance between spots.
    image_key, shapes_key
        Image and spots; needed only if there are several. With ``"cell"``, `shapes_key` is that of the cells, by
        default of the only polygons.
    encoder
        Encoder of the model, if the registry does not have it under the name in the card of the model.
    coordinate_system
        Coordinate system that relates spots and image; needed only if several disagree.
    unclipped
        Add ``layers["unclipped"]``, the prediction with negative and too high values. Spots only.
    intervals
        Add ``layers["lower"]`` and ``layers["upper"]``, the 80 % prediction interval of a measurement on another
        patient. Needs a model that was trained on at least 5 patients. Spots only.
    out
        Path of a new SpatialData store (``.zarr``) to stream spots or cells and their table to, without the image. The
        memory does not depend on the size of the slide. Embeddings are cached up to `settings.embeddings_gb`.
    rounded
        Round what is streamed to disk to the 11 significant bits of float16: less than half the size. It stays float32.
    key_added
        Name of the new table; by default ``deepspot_<shapes>``.
    overwrite
        Replace a table of that name, a store that `out` made before, and the finer shapes of an earlier call, if no
        other tables (such as features of another grid) annotate these.
    device
        Device; None takes `settings.device`, or else CUDA, MPS or the CPU.
    batch_size
        Tiles per batch of the encoder; None takes `settings.batch_size`.

    Returns
    -------
    None. Adds a feature table, if there is none (see :func:`deepspot.pp.embed` and :func:`deepspot.pp.use_features`),
    and a table ``deepspot_<shapes>`` with one row per shape:

    `X`
        (n, genes) float32, on the scale of the model: log1p of counts per 10,000, unless it was trained with another
        `normalize` (see :class:`deepspot.models.SlideKeys`). Values are clipped to the range from 0 to that of a gene
        with all counts of a spot. The number of values above it is logged: they occur where the model extrapolates, on
        tissue that is unlike the training tissue.
    ``layers["unclipped"]``
        With `unclipped`: the prediction before clipping.
    ``layers["lower"]``, ``layers["upper"]``
        With `intervals`: ends of the intervals, clipped as `X`, calibrated over patients with one half width per gene;
        NaN for genes that fewer than 5 patients measured.
    ``var["expected_r"]``, ``var["expected_r_low"]``, ``var["expected_r_high"]``, ``var["expected_r_n"]``
        float32, out-of-fold Pearson r over the spots of a slide, its 90 % interval on the next slide of a new patient,
        and the number of held-out units in which the gene varied; NaN if unknown. There is no interval for a gene that
        varied in fewer than three patients.
        ``uns["deepspot"]["expected_r_from"]`` is the number and kind of the held-out units: for slides of one patient,
        r is lower on other patients. It is r over spots for every `resolution`.
    ``obs["ood_score"]``, ``obs["ood"]``
        Out-of-distribution score of the spot tile (float32) and whether it is above the threshold of 1 (bool). Do not
        trust these spots. A sub-spot, and a cell of a model whose spots consist of cells, has the values of its spot.
        Absent if the model has no training data (:func:`deepspot.models.convert_legacy`).
    ``obs["parent"]``, ``layers["background"]``
        With a model whose spots consist of cells: index of the spot of a cell, which is the nearest if spots overlap;
        and with CellSum, in the table of spots (not with `out`), the part of the expression that is outside of the
        cells, as log1p like `X`.
    `obs`
        Region and instance, which link the rows to the shapes.
    ``obsm["spatial"]``
        (n, 2) float64, centers as x and y in pixels of the full-resolution image.
    ``var["expected_r_beyond_axis"]``, ``var["expected_r_ceiling"]``
        float32, out-of-fold r beyond the first axis of the measured genes of a slide, and the highest r that a perfect
        prediction can have with the counts of the training slides; NaN if unknown. See :func:`evaluate`.
    ``uns["log1p"]``
        Marks `X` as log-transformed for scanpy.
    ``uns["deepspot"]``
        `scale`, `depth`, `features` (name of the feature table), `image_key`, `ood_share`, `resolution`, `grid_um` (of
        a grid), and of the model `model` (its name), `fingerprint`, `preset`, `gate` (network, blend or ridge, with the
        reason), `expected_r_from`, `tissue`, `license` and `versions`. `training_slide` is whether a training slide of
        the model has this image: ``"yes"``, ``"no"`` or ``"unknown"``.

    With `out`, no feature table is added, embeddings are in half precision, rows are ordered so that nearby spots, and
    the cells of a spot, follow each other, and `X` is a dask array on disk. :func:`deepspot.io.predicted` opens the
    store again, or reads some genes or a region of it into memory.

    With a finer `resolution`, shapes ``<shapes>_subspots`` or ``<shapes>_grid`` are added as well, if they do not
    exist: circles with the diameter of a sub-spot, in the coordinate systems of the spots, with the columns `parent`
    (index of the spot of a sub-spot, or of the spot nearest to a point), `row` and `col` (int; in the spot or in the
    grid, from the top left of the image) and `diameter_um`. The table annotates them and is called
    ``deepspot_<shapes>_subspots`` or ``deepspot_<shapes>_grid``. A grid has its own feature table, with embeddings of
    the central sub-spots in ``obsm["subspots"]`` (n, 1, d).

    Raises
    ------
    ValueError
        If the scale of the image is unknown or too coarse, the encoder is not that of the model, the model has no
        intervals for `intervals`, or the result is larger than `settings.max_table_gb` without `out`; with a finer
        `resolution` if the model does not use sub-spots, other shapes have the name of the finer ones, or the shapes of
        ``"cell"`` are spots.
    FileExistsError
        If `out` exists.
    KeyError
        If there are no spots, the sub-spots of the model are nuclei and the slide has none, or a key does not exist.

    References
    ----------
    DeepSpot, sections 4.2 and 4.4.1; super-resolution: section 4.4.7 and figure 5D. The published code cuts the central
    sub-spot of a grid point from pixels 9 to 36 of 81, and its sum over one sub-spot is a ninth of the sum in training.
    Here it is centered, and a sum over one sub-spot is scaled to nine.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.tl.predict(sdata)
    >>> sdata.tables["deepspot_spots"].shape
    (12, 1000)
    >>> ds.tl.predict(sdata, resolution="subspot")
    >>> sdata.tables["deepspot_spots_subspots"].shape
    (108, 1000)
    """
    from deepspot.models._registry import as_model

    ready = as_model(model)
    key_in(resolution, get_args(Resolution), "resolution")
    _check_finer(resolution, ready, grid_um=grid_um, unclipped=unclipped, intervals=intervals)
    if not sdata.shapes:
        pitch = f"{ready.pitch_um:g}" if ready.geometry.neighbors.pitch_um else "…"
        raise MissingKeyError(
            "The slide has no spots. Add them with "
            f"`ds.pp.spots(sdata, diameter_um={ready.geometry.tile.tile_um:g}, pitch_um={pitch})`."
        )
    view = SlideView.select(
        sdata,
        image_key,
        cell_shapes(sdata, shapes_key, ready) if resolution == "cell" else shapes_key,
        coordinate_system=coordinate_system,
        tile_um=ready.geometry.tile.tile_um,
        needs_image=False,
    )
    # Polygons with a parent are the nuclei of cells, which can be predicted.
    if PARENT in sdata.shapes[view.shapes_key] and "radius" in sdata.shapes[view.shapes_key]:
        raise InputError(
            f"sdata.shapes[{view.shapes_key!r}] (with a column {PARENT!r}) was made of spots: sub-spots and "
            "grid points are predicted together with their spots. Pass the spots as `shapes_key`, and a `resolution`."
        )
    if resolution == "cell":
        check_cells(view, ready)
        of_spots = spots_with_cells(view, ready) if isinstance(ready, CellSum | DeepSpot2Cell) else None
    if resolution == "spot" or "radius" not in sdata.shapes[view.shapes_key]:
        _say_size(view, ready, small=resolution == "spot")
    names = {"subspot": subspots_name(view.shapes_key), "grid": grid_name(view.shapes_key)}
    key = key_added or prediction_name(names.get(resolution, view.shapes_key))
    check_new_key(sdata, key, overwrite=overwrite)
    half_width = ready.half_width() if intervals else None
    _check_out(out, rounded, resolution, ready, layers=unclipped or intervals)
    store = None if out is None else Path(out).expanduser()
    if store is not None:
        check_new_path(store, overwrite=overwrite)
        check_replaceable(store, sdata)
    features = ready.features_of(view, encoder, spots=resolution == "spot")
    compute: dict[str, Any] = {"device": device, "batch_size": batch_size}
    if store is not None:
        written: dict[str, Any] = {"rounded": rounded, "overwrite": overwrite} | compute
        if resolution == "cell":
            table = stream_cells(features, ready, encoder, store, key, **written)
        else:
            table = stream(features, ready, store, key, **written)
    else:
        if resolution == "spot":
            prediction = predict_spots(features, ready, copies=1 + unclipped + 2 * intervals, **compute)
        elif resolution == "subspot":
            prediction = predict_subspots(features, ready, table_key=key, overwrite=overwrite, **compute)
        elif resolution == "cell":
            prediction = (
                predict_cells_of_spots(view, of_spots, ready, encoder, **compute)
                if of_spots is not None and isinstance(ready, CellSum | DeepSpot2Cell)
                else predict_cells(features, ready, encoder, **compute)
            )
        else:
            prediction = predict_grid(features, ready, grid_um, table_key=key, overwrite=overwrite, **compute)
        table = prediction_table(ready, prediction, unclipped=unclipped, half_width=half_width)
    add_table(sdata, key, table, what="predicted genes", overwrite=overwrite, store=store)
    share = table.uns[UNS]["ood_share"]
    if share > MANY_OOD:
        logger.warning(
            "%.0f %% of the %s are out of distribution (obs['ood']): they differ from the training spots. Do not trust "
            "their predictions.",
            100 * share,
            NOUNS[resolution].many,
        )


def _check_finer(
    resolution: Resolution, model: Model, *, grid_um: float | None, unclipped: bool, intervals: bool
) -> None:
    """Raise if the model or an argument does not support the resolution."""
    if grid_um is not None:
        check_positive(grid_um, "grid_um")
        if resolution != "grid":
            raise InputError(f"`grid_um` is the distance between points of a grid, but `resolution` is {resolution!r}.")
    if resolution == "spot":
        return
    if model.has_cells and not isinstance(model, CellSum | DeepSpot2Cell):
        raise InputError(
            f"The correction of model {model.card.name!r} holds for spots, and not for their cells. Predict cells with "
            "the model that was calibrated, or calibrate it without `correction`."
        )
    if intervals:
        raise InputError("Intervals were calibrated on spots only. Leave `intervals` out, or pass `resolution='spot'`.")
    if unclipped:
        raise InputError(
            f"`unclipped` is for spots only: `resolution={resolution!r}` has no negative values. Leave it out, or pass "
            "`resolution='spot'`."
        )
    card, grid = model.card, model.geometry.tile.grid
    if model.spots_are_cells:
        raise InputError(
            f"Model {card.name!r} was trained on cells, so it predicts cells as its spots: pass "
            "`resolution='spot'` and the cells as `shapes_key`."
        )
    nuclei = "subspots" in model.context and model.geometry.tile.subspots == "nuclei"
    if resolution != "cell" and nuclei:
        raise InputError(
            f"The sub-spots of model {card.name!r} are nuclei, which are no parts of the spot tile and not at the "
            "points of a grid. Pass `resolution='cell'` and the nuclei as `shapes_key`."
        )
    if resolution == "subspot" and ("subspots" not in model.context or grid == 1):
        raise InputError(
            f"Model {card.name!r} does not use sub-spots, so all sub-spots of a spot would have the same prediction. "
            "Pass `resolution='grid'`, or a model with 'subspots' in its context."
        )
    if resolution in ("grid", "cell") and "subspots" in model.context and grid % 2 == 0:
        raise InputError(
            f"Model {card.name!r} has {grid} × {grid} sub-spots, so there is no central one. Pass "
            "`resolution='subspot'`."
        )


def _say_size(view: SlideView, model: Model, *, small: bool) -> None:
    """Log that shapes are much larger or, with `small`, smaller than the tiles of the model, which it predicts."""
    width, tile = view.width_um, model.geometry.tile.tile_um
    if width is None or tile / UNLIKE <= width <= tile * UNLIKE or (width < tile and not small):
        return
    text = "The shapes %r are %.3g µm wide, and the tiles of model %r %g µm: a prediction is that of the "
    text += "middle of a shape." if width > tile else "tissue in the tile around the center of a shape."
    logger.log(logging.WARNING if width > tile else logging.INFO, text, view.shapes_key, width, model.card.name, tile)


def _check_out(out: str | Path | None, rounded: bool, resolution: Resolution, model: Model, *, layers: bool) -> None:
    """Raise if a prediction cannot be streamed."""
    if out is None:
        if rounded:
            raise InputError("`rounded` needs `out=`: only a prediction that is streamed to disk is rounded.")
        return
    if resolution == "cell" and model.has_cells:
        raise InputError(
            f"Cells of model {model.card.name!r} are predicted from the bags of their spots, in memory only. Leave "
            "`out` out, or predict a part of the slide."
        )
    if resolution in ("subspot", "grid") or layers:
        raise InputError(
            "Only `X` of spots and cells is streamed to disk. Leave `unclipped`, `intervals` and `resolution` out, or "
            "predict a part of the slide without `out`."
        )
