from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from deepspot._core.keys import PARENT, UNS, key_in, prediction_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_table, check_new_key
from deepspot._sdata.zarr_store import check_new_path, check_replaceable
from deepspot.errors import InputError, MissingKeyError
from deepspot.models._confidence.ood import MANY_STRANGE

from .resolution import PLACES, Resolution, at_grid, at_spots, at_subspots, features_of, target
from .stream import stream
from .table import prediction_table

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot


def predict(
    sdata: SpatialData,
    model: DeepSpot | str | Path | None = None,
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
    """Predict gene expression of spots from the H&E image, or of places that are finer than spots.

    Tiles are cut and embedded where that has not been done yet, at the physical size that the model was trained with.

    What a finer `resolution` means: the model learned from whole spots, and is shown the same surroundings around a
    smaller piece of tissue. The map says how what the model sees there differs from what is around it. It has not been
    compared with expression measured at that scale, and a sub-spot of 18 µm (of a Visium spot) or 33 µm still holds
    several cells: it is no single-cell map. Use it to see where within spots a pattern may lie; for tests and
    numbers, use the spots.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale and shapes. Measured genes are not needed and not used.
    model
        From :func:`deepspot.models.train`, or the path of a bundle; None takes the embedded model, which learned from
        HER2-positive breast cancer of two patients.
    resolution
        What is predicted:

        ``"spot"``
            The shapes themselves.
        ``"subspot"``
            The 3 × 3 sub-spots of each of them, at no cost of embedding. The model is shown one sub-spot in the place
            of all nine; spot and neighbors stay. Then the nine are scaled, gene by gene, so that on the scale of
            counts (``expm1``) their mean is what is predicted for the spot.
        ``"grid"``
            Points of a square grid in and between the spots, four times as dense as these along a side: the map of the
            paper. Around each point a whole spot tile and its central sub-spot are embedded, about 30 tiles for every
            spot where ``"spot"`` takes 10. Neighbors are grid points as far away as the neighbors of spots, in the
            directions in which the nearest spot has them. Nothing makes points average to the spot that they lie in.
    grid_um
        Distance between points of the grid in µm; by default a quarter of the distance between spots.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    encoder
        Encoder of the model, should it not be in the registry under the name in the model's card.
    coordinate_system
        Coordinate system to relate spots and image with, should they share several that disagree.
    unclipped
        Keep the prediction as it left the model, negative values and all, in ``layers["unclipped"]``. Only of spots.
    intervals
        Add ``layers["lower"]`` and ``layers["upper"]``: 80 % of what would be measured on the next patient lies between
        them. Needs a model that was trained on at least 5 patients. Only of spots, on which they were calibrated.
    out
        Stream to a new SpatialData store of this name (``.zarr``): spots and table, without the image. What it takes of
        memory does not grow with the slide. Embeddings are kept in the cache while there is room for them, see
        `settings.embeddings_gb`. Only of spots.
    rounded
        Round what is streamed to disk to the 11 significant bits of float16: less than half the size. It stays float32.
    key_added
        Name of the new table, by default ``deepspot_<shapes>``.
    overwrite
        Replace a table of that name, a store that `out` made before, and the finer shapes of an earlier call, once
        other tables on these (the features of another grid) are deleted.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.

    Returns
    -------
    None. Adds a feature table, unless there is one (see :func:`deepspot.pp.embed`), and a table ``deepspot_<shapes>``
    with one row for each shape:

    `X`
        (n, genes) float32, on the scale that scanpy calls log1p of counts per 10,000, not below 0.
    ``layers["unclipped"]``
        The same before negative values became 0, if asked for.
    ``layers["lower"]``, ``layers["upper"]``
        Ends of the intervals, not below 0, if asked for. They are calibrated over patients, one half width per gene;
        NaN for genes that fewer than 5 patients measured.
    ``var["expected_r"]``, ``var["expected_r_low"]``, ``var["expected_r_high"]``
        float32, Pearson r within a slide that the model's fits reached on patients that they had not seen, and its
        90 % interval over patients; NaN where unknown. ``uns["deepspot"]["expected_r_from"]`` says what was held out:
        if these were slides of one patient, expect less on another. It is r over spots, whatever the `resolution`.
    ``obs["ood_score"]``, ``obs["ood"]``
        How unlike the training spots the tile is (float32, the threshold is 1), and whether it is above the threshold
        (bool). Do not trust these spots. A sub-spot has those of its spot. Absent where the model does not know its
        training data (:func:`deepspot.models.convert_legacy`).
    `obs`
        Region and instance, by which the rows belong to the shapes.
    ``obsm["spatial"]``
        (n, 2) float64, centers as x and y in pixels of the full-resolution image.
    ``uns["log1p"]``
        Says to scanpy that `X` is on the log scale.
    ``uns["deepspot"]``
        `scale`, `depth`, `features` (name of that table), `image_key`, `ood_share`, `resolution`, `grid_um` (of a
        grid), and of the model `model` (its name), `fingerprint`, `preset`, `gate` (network, blend or ridge, and why),
        `expected_r_from`, `tissue`, `license` and `versions`.

    With `out` there is no feature table, embeddings are in half precision, rows are in an order of their own (near
    spots follow each other), and `X` is a dask array that stays on disk. :func:`deepspot.io.predicted` opens the store
    again, or some genes or a region of it in memory.

    With a finer `resolution`, shapes ``<shapes>_subspots`` or ``<shapes>_grid`` are added too, unless they are there:
    circles as wide as a sub-spot, in the coordinate systems of the spots. The table belongs to them and is called
    ``deepspot_<shapes>_subspots`` or ``deepspot_<shapes>_grid``. Their columns are `parent` (index of the spot that a
    sub-spot is of, or a point is nearest to), `row` and `col` (int; in the spot or in the grid, from the top left of
    the image) and `diameter_um`. A grid has a feature table of its own, with embeddings of the central sub-spots in
    ``obsm["subspots"]`` (n, 1, d).

    Raises
    ------
    ValueError
        If the scale of the image is unknown or too coarse, the encoder is not the model's, the model has no intervals
        but they are asked for, or the result would be larger than `settings.max_table_gb` and there is no `out`; with a
        finer `resolution` if the model does not use sub-spots, or there are other shapes where the finer ones would go.

    FileExistsError
        If there is something of the name `out`.

    References
    ----------
    DeepSpot, sections 4.2 and 4.4.1; super-resolution: figure 5D. The published code cuts that sub-spot off the
    center of the tile (pixels 9 to 36 of 81), and a sum over one is a ninth of what the network learned with; here it
    is centered, and counts as nine.

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
        pitch = f"{ready.spacing_um:g}" if ready.geometry.neighbors.kind == "radius" else "…"
        raise MissingKeyError(
            "The slide has no spots. Add them with "
            f"`ds.pp.spots(sdata, diameter_um={ready.geometry.tile.tile_um:g}, pitch_um={pitch})`."
        )
    view = SlideView.select(
        sdata, image_key, shapes_key, coordinate_system=coordinate_system, tile_um=ready.geometry.tile.tile_um
    )
    _check_spots(view)
    key = key_added or prediction_name(target(resolution, view.shapes_key))
    check_new_key(sdata, key, overwrite=overwrite)
    width = ready.half_width() if intervals else None
    _check_out(out, rounded, resolution, layers=unclipped or intervals)
    if out is not None:
        check_new_path(Path(out), overwrite=overwrite)
        check_replaceable(Path(out), sdata)
    features = features_of(view, ready, encoder)
    compute: dict[str, Any] = {"device": device, "batch_size": batch_size}
    if out is not None:
        table = stream(features, ready, Path(out), key, rounded=rounded, overwrite=overwrite, **compute)
    else:
        if resolution == "spot":
            predicted = at_spots(features, ready, copies=1 + unclipped + 2 * intervals, **compute)
        elif resolution == "subspot":
            predicted = at_subspots(features, ready, table_key=key, overwrite=overwrite, **compute)
        else:
            predicted = at_grid(features, ready, grid_um, table_key=key, overwrite=overwrite, **compute)
        table = prediction_table(sdata, ready, predicted, resolution=resolution, unclipped=unclipped, half_width=width)
    what = PLACES[resolution]
    add_table(sdata, key, table, what="predicted genes", overwrite=overwrite, rows=what)
    share = table.uns[UNS]["ood_share"]
    if share > MANY_STRANGE:
        logger.warning(
            "%.0f %% of the %s are unlike the spots that the model learned from (obs['ood']): its predictions for them "
            "are not to be trusted.",
            100 * share,
            what,
        )


def _check_finer(
    resolution: Resolution, model: DeepSpot, *, grid_um: float | None, unclipped: bool, intervals: bool
) -> None:
    """Raise if an argument does not go with the resolution."""
    if grid_um is not None:
        check_positive(grid_um, "grid_um")
        if resolution != "grid":
            raise InputError(f"`grid_um` is the distance between points of a grid, but `resolution` is {resolution!r}.")
    if resolution == "spot":
        return
    if intervals:
        raise InputError(
            "Intervals were calibrated on spots that were measured, and nothing finer was. Leave `intervals` out, or "
            "take `resolution='spot'`."
        )
    if unclipped:
        raise InputError(
            f"`unclipped` is for spots: with `resolution={resolution!r}` negative values are gone before the table is "
            "made. Leave it out, or take `resolution='spot'`."
        )
    card, grid = model.card, model.geometry.tile.grid
    if resolution == "subspot" and ("subspots" not in card.network.context or grid == 1):
        raise InputError(
            f"Model {card.name!r} does not use sub-spots, so that all of a spot would be predicted alike. Take "
            "`resolution='grid'`, or a model with 'subspots' in its context."
        )
    if resolution == "grid" and "subspots" in card.network.context and grid % 2 == 0:
        raise InputError(f"Model {card.name!r} has {grid} × {grid} sub-spots, of which none is in the middle.")


def _check_out(out: str | Path | None, rounded: bool, resolution: Resolution, *, layers: bool) -> None:
    """Raise if a prediction cannot be streamed."""
    if out is None:
        if rounded:
            raise InputError("`rounded` needs `out=`: only a prediction that is streamed to disk is rounded.")
        return
    if resolution != "spot" or layers:
        raise InputError(
            "Only `X` of spots is streamed to disk. Leave `unclipped`, `intervals` and a finer `resolution` out, or "
            "predict a part of the slide without `out`."
        )


def _check_spots(view: SlideView) -> None:
    if PARENT in view.sdata.shapes[view.shapes_key]:
        raise InputError(
            f"sdata.shapes[{view.shapes_key!r}] (with a column {PARENT!r}) was made of spots, and neighbors among "
            "them would be nearer than in training. Pass the spots as `shapes_key`, and a `resolution`."
        )
