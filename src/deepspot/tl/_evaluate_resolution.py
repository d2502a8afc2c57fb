from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.keys import LEARNED, PREDICTION, SCALE, UNS, WITHIN, checked, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_count, check_seed
from deepspot._sdata.measured import measured_counts
from deepspot._sdata.tables import (
    check_shared_genes,
    comparable_scale,
    is_deepspot_table,
    kind_of,
    match_rows,
    regions_of,
)
from deepspot._sdata.view import SlideView, known_diameter, spot_shapes
from deepspot._sdata.write import add_columns, check_entries
from deepspot._spatial.neighbors import nearest_within
from deepspot._spatial.transforms import pitch_px
from deepspot._stats.ceiling import ceiling, mean_of_ceiling
from deepspot._stats.groups import members_of
from deepspot._stats.metrics import pearson
from deepspot._stats.within import WithinSpots, interpolate, r_within
from deepspot.errors import InputError
from deepspot.models._training.targets import targets
from deepspot.tl._predict.table import is_current, learned_from, log_learned

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot._stats.normalize import Scale

COLUMNS = (
    *("within_r", "within_r_low", "within_r_high", "within_p", "within_r_depth", "within_r_interpolated"),
    *("within_ceiling", "places_r", "places_r_spot", "places_r_interpolated"),
)
LEAST_SPOTS = 3
# Genes that are compared at once, so that memory does not depend on their number.
GENES = 100


@checked
def evaluate_resolution(
    sdata: SpatialData,
    *,
    prediction_key: str | None = None,
    table_key: str | None = None,
    spots_key: str | None = None,
    layer: str | None = None,
    coordinate_system: str | None = None,
    n_bootstrap: int = 1000,
    n_swaps: int = 199,
    overwrite: bool = False,
    seed: int | None = None,
) -> None:
    """Measure what a prediction finer than spots knows beyond the value of the spot, with cells or bins as the truth.

    Predictions of sub-spots, of a grid or of cells vary between spots, which any prediction of spots explains, and
    within spots. Only the latter is resolution. Counts of single cells or bins (Xenium, Visium HD) are the truth:
    :func:`deepspot.pp.pool` makes spots of them, on which a model is trained, on other slides.

    Parameters
    ----------
    sdata
        Object with the finer prediction of :func:`predict`, spots, and shapes of cells or bins with counts.
    prediction_key
        Table with the finer prediction; needed only if there are several.
    table_key
        Table with the raw counts of cells or bins; needed only if there are several.
    spots_key
        Spots, as circles of known diameter; by default the only ones.
    layer
        Layer with raw counts; None is `X`.
    coordinate_system
        Coordinate system that relates image, spots and cells; needed only if they share several that disagree.
    n_bootstrap
        Number of bootstrap samples of the spots, for the intervals.
    n_swaps
        Number of random swaps of the predicted places within every spot, for p.
    overwrite
        Replace the results of an earlier call.
    seed
        Seed of the bootstrap, the swaps and the ceiling; None takes `settings.seed`.

    Returns
    -------
    None. Cells and bins are assigned to the nearest predicted place (if they are not the places themselves), within
    half the distance between places, and their counts are summed; a place belongs to the spot whose circle contains its
    center. Places without counts, and spots with fewer than two places with counts, are left out. Adds to ``var`` of
    the prediction, in float32:

    `within_r`, `within_r_low`, `within_r_high`
        Pearson's r of deviations from the mean of the spot, and its 95 % interval from the bootstrap of spots. The
        value of the spot, repeated in all of its places, has 0; so has a prediction that is constant within spots.
    `within_p`
        Share of random swaps of the predicted places within spots that have an r at least as high.
    `within_r_interpolated`
        r within spots of the linear interpolation between the predicted means of spots, which needs no image within
        spots: below it, the prediction only continues the trend between spots. Beyond the outer spots it is constant,
        so it is weak on small slides.
    `within_r_depth`
        r within spots of the logarithm of the counts of a place. Log-normalized shallow counts depend on it.
    `within_ceiling`
        r within spots that a perfect prediction can have with these counts, from random halves of them; NaN if the
        halves do not agree. It includes what no image may show, such as the depth of a place, which halves share.
    `places_r`, `places_r_spot`, `places_r_interpolated`
        r over all places, without removing the means of spots: of the prediction, of the value of the spot repeated,
        and of the interpolation.

    and to ``uns["deepspot"]["within_spots"]`` the means of these over genes, under the same names without
    `within_ceiling`; the interval and p of the mean (`within_r_low`, `within_r_high`, `within_p`), `within_of_ceiling`
    (mean r over mean ceiling), and the numbers of `spots` and `places`.

    Raises
    ------
    ValueError
        If the prediction is one of the spots themselves, the spots have no diameter, fewer than three spots have two
        places with counts, counts are not raw, or the counts have fewer than half of the predicted genes.
    KeyError
        If a table or shapes do not exist.

    References
    ----------
    Beyond the paper, whose super-resolution (section 4.4.7) was not compared with measurements.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5, cells=True)["P1_S1"]
    >>> model = ds.models.train(sdata, genes=10, network={"width": 16, "members": 1}, training={"epochs": 2})
    >>> ds.tl.predict(sdata, model, resolution="subspot")
    >>> ds.tl.evaluate_resolution(sdata, n_swaps=19)
    >>> sdata.tables["deepspot_spots_subspots"].uns["deepspot"]["within_spots"]["spots"]
    20
    """
    check_count(n_bootstrap, "n_bootstrap")
    check_count(n_swaps, "n_swaps")
    seed = check_seed(seed)
    hint = "Predict cells or bins first: `ds.tl.predict(sdata, model, resolution='cell', shapes_key=…)`."
    prediction_key = one_key(prediction_key, _finer(sdata), "finer predictions in sdata.tables", "prediction_key", hint)
    prediction = sdata.tables[prediction_key]
    places_key = one_key(None, regions_of(sdata, prediction_key), f"regions of table {prediction_key!r}", "shapes_key")
    circles = [key for key in spot_shapes(sdata) if key != places_key]
    hint = "`ds.pp.pool` makes spots from measured cells or bins, and `ds.pp.spots` places them on the tissue."
    spots_key = one_key(spots_key, circles or spot_shapes(sdata), "circles in sdata.shapes", "spots_key", hint)
    if spots_key == places_key:
        raise InputError(
            f"Table {prediction_key!r} predicts the spots {spots_key!r} themselves. Predict finer places, with "
            "`resolution='subspot'`, `'grid'` or `'cell'`, or name other spots as `spots_key=`."
        )
    hint = "The truth is a table with raw counts of cells or bins, as `ds.io.xenium` and `ds.io.visium_hd` read it."
    counted = _measured(sdata, spots_key)
    table_key = one_key(table_key, counted, "tables of cells or bins in sdata.tables", "table_key", hint)
    cells_key = one_key(None, regions_of(sdata, table_key), f"regions of table {table_key!r}", "shapes_key")
    check_entries(sdata, prediction_key, "var", COLUMNS, overwrite=overwrite)
    check_shared_genes(list(prediction.var_names), sdata.tables[table_key], table_key)
    counts = measured_counts(sdata, cells_key, table_key, layer=layer)

    image_key = str(prediction.uns[UNS]["image_key"])
    spots, cells, predicted_at = (
        SlideView(sdata, image_key, key, coordinate_system) for key in (spots_key, cells_key, places_key)
    )
    if not is_current(prediction, predicted_at):
        raise InputError(
            f"Table {prediction_key!r} was predicted for other positions of the shapes {places_key!r}. Predict again "
            "with `ds.tl.predict(…, overwrite=True)`."
        )
    diameter = known_diameter(sdata, spots_key)
    if diameter is None:
        raise InputError(f"The diameter of the spots {spots_key!r} is unknown. Set it with `ds.pp.set_scale`.")
    rows, summed = _counts_of_places(sdata, prediction, places_key, counts, cells)
    places = _assign(prediction, rows, summed, spots, diameter)
    scale, genes = comparable_scale(prediction), prediction.var_names
    learned = learned_from(prediction, counts)
    log_learned(learned)
    at, depth = np.asarray(prediction.obsm["spatial"])[places.rows], places.counts.depth()
    within = WithinSpots(places.groups, n_bootstrap=n_bootstrap, n_swaps=n_swaps, seed=seed)
    blocks = []
    for start in range(0, len(genes), GENES):
        block = slice(start, start + GENES)
        expression, _ = targets([places.counts], list(genes[block]), scale)
        predicted = np.asarray(prediction.X[places.rows, block], dtype=np.float64)
        repeated, between = _between(predicted, places, spots.centers, at)
        measured = expression[0]
        blocks.append(
            pd.DataFrame(
                {f"within_{name}": values for name, values in within.add(predicted, measured).items()}
                | {
                    "within_r_depth": r_within(np.log(depth)[:, None], measured, places.groups),
                    "within_r_interpolated": r_within(between, measured, places.groups),
                    "within_ceiling": _ceiling(places, genes[block], depth, scale, seed),
                }
                | {
                    f"places_r{name}": np.where(
                        np.isfinite(measured).any(axis=0), np.nan_to_num(pearson(values, measured)), np.nan
                    )
                    for name, values in (("", predicted), ("_spot", repeated), ("_interpolated", between))
                },
                index=genes[block],
            )
        )
    result = pd.concat(blocks).rename(columns={"within_low": "within_r_low", "within_high": "within_r_high"})
    result, whole = result[list(COLUMNS)].astype(np.float32), within.mean()
    means = result.drop(columns="within_ceiling").mean().astype(float).to_dict()
    means |= {"within_r": whole["r"], "within_r_low": whole["low"], "within_r_high": whole["high"]}
    means |= {"within_p": whole["p"], "spots": len(np.unique(places.groups)), "places": len(places.rows)}
    means["within_of_ceiling"] = mean_of_ceiling(
        result["within_r"].to_numpy(float), result["within_ceiling"].to_numpy(float)
    )
    what = (
        f"agreement with {table_key!r} within {means['spots']:,} spots (mean r {whole['r']:.3f}, 95 % interval "
        f"{whole['low']:.3f} to {whole['high']:.3f}, p = {whole['p']:.2g} by swaps; interpolation between spots "
        f"{means['within_r_interpolated']:.3f}, depth {means['within_r_depth']:.3f})"
    )
    add_columns(sdata, prediction_key, result, what=what, overwrite=overwrite)
    prediction.uns[UNS][WITHIN], prediction.uns[UNS][LEARNED] = means, learned
    if scale.text != prediction.uns[UNS].get("scale", SCALE):
        logger.info("The prediction and the counts are on different scales, which correlations allow.")
    if not whole["low"] > max(0.0, means["within_r_interpolated"]):
        logger.warning(
            "Within spots, the prediction is not better than %s: its finer resolution is not supported by these "
            "counts. Use the values of spots.",
            "the interpolation between spots" if whole["low"] > 0 else "the value of the spot",
        )


@dataclass(frozen=True, eq=False)
class Places:
    """Predicted places with counts: rows of the prediction (n,), counts, and numbers of spots (n,) from 0.

    `spots` (k,) are the positions of these spots in their shapes.
    """

    rows: np.ndarray
    counts: MeasuredCounts
    groups: np.ndarray
    spots: np.ndarray


def _counts_of_places(
    sdata: SpatialData, prediction: AnnData, places_key: str, counts: MeasuredCounts, cells: SlideView
) -> tuple[np.ndarray, MeasuredCounts]:
    """Return rows of the prediction, and for each the sum of the counts of the cells at its place."""
    if cells.shapes_key == places_key:
        rows, at = match_rows(prediction, sdata, places_key)
        _, ours, theirs = np.intersect1d(at, counts.rows, return_indices=True)
        return rows[ours], replace(counts, counts=counts.counts[theirs], rows=counts.rows[theirs])
    at = np.asarray(prediction.obsm["spatial"])
    place = nearest_within(cells.centers[counts.rows], at, pitch_px(at) / 2, square=True)
    inside = np.flatnonzero(place >= 0)
    if len(inside) < len(place):
        logger.info(
            "%s of %s cells of %r are at no predicted place, and are left out.",
            *(f"{len(place) - len(inside):,}", f"{len(place):,}", cells.shapes_key),
        )
    rows, number = np.unique(place[inside], return_inverse=True)
    summed = csr_matrix(members_of(number, dtype=np.int64) @ counts.counts[inside])
    return rows, replace(counts, counts=summed, rows=rows)


def _assign(
    prediction: AnnData, rows: np.ndarray, counts: MeasuredCounts, spots: SlideView, diameter_um: float
) -> Places:
    """Assign places with counts to the spot whose circle contains them; leave out spots with fewer than two."""
    centers = np.asarray(prediction.obsm["spatial"])[rows]
    spot = nearest_within(centers, spots.centers, diameter_um / spots.mpp / 2)
    usable = (spot >= 0) & (counts.depth() > 0)
    chosen = usable & (np.bincount(spot[usable], minlength=len(spots.centers)) >= 2)[spot]
    numbers, groups = np.unique(spot[chosen], return_inverse=True)
    if len(numbers) < LEAST_SPOTS:
        raise InputError(
            f"Only {len(numbers)} spots of {spots.shapes_key!r} contain two places with counts; at least "
            f"{LEAST_SPOTS} are needed. Check that spots, prediction and counts are of the same part of the slide."
        )
    kept = replace(counts, counts=counts.counts[chosen], rows=counts.rows[chosen])
    return Places(rows[chosen], kept, groups, numbers)


def _ceiling(places: Places, genes: pd.Index, depth: np.ndarray, scale: Scale, seed: int) -> np.ndarray:
    """Return the ceiling (genes,) of r within spots, NaN for genes that were not measured."""
    columns = places.counts.genes.get_indexer(genes)
    values, known = np.full(len(genes), np.nan), columns >= 0
    counts = places.counts.counts[:, columns[known]]
    values[known] = ceiling(counts, depth, scale=scale, groups=places.groups, seed=seed)
    return values


def _between(
    predicted: np.ndarray, places: Places, spots: np.ndarray, centers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return for every place the mean of the prediction in its spot, and the interpolation between these means.

    `spots` are the centers of all spots, `centers` those of the places.
    """
    means = (members_of(places.groups) @ predicted) / np.bincount(places.groups)[:, None]
    return means[places.groups], interpolate(means, spots[places.spots], centers)


def _finer(sdata: SpatialData) -> list[str]:
    names = [key for key, table in sdata.tables.items() if kind_of(table) == PREDICTION]
    finer = [key for key in names if sdata.tables[key].uns[UNS].get("resolution", "spot") != "spot"]
    return finer or names


def _measured(sdata: SpatialData, spots_key: str) -> list[str]:
    """Return the names of tables of counts that annotate other shapes than the spots."""
    return [
        key
        for key, table in sdata.tables.items()
        if not is_deepspot_table(table) and (regions := regions_of(sdata, key)) and spots_key not in regions
    ]
