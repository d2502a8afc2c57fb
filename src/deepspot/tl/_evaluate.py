from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import LEARNED, PREDICTION, UNS, checked, key_in, one_key
from deepspot._core.logging import logger
from deepspot._sdata.measured import measured_counts
from deepspot._sdata.tables import (
    check_shared_genes,
    find_measured_table,
    kind_of,
    match_rows,
    regions_of,
    scale_in,
    tables_annotating,
)
from deepspot._sdata.write import add_columns, check_entries
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors
from deepspot._stats.ceiling import ceiling, mean_of_ceiling
from deepspot._stats.metrics import lee, moran, pearson, rmse, spearman
from deepspot._stats.patterns import beyond_first_axis, compare_patterns
from deepspot.errors import InputError
from deepspot.models._training.targets import targets
from deepspot.tl._predict.table import learned_from

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

COLUMNS = (
    *("pearson", "pearson_beyond_axis", "pearson_depth", "pearson_ceiling", "spearman", "rmse", "lee"),
    *("moran_predicted", "moran_measured", "measured_detected"),
)
# In units of the distance to the nearest spot: includes the neighbors of hexagons (1) and squares (1 and √2).
RING = 1.5


@checked
def evaluate(
    sdata: SpatialData,
    *,
    prediction_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    overwrite: bool = False,
) -> None:
    """Compare predicted and measured expression of each gene over the same spots.

    Spots are matched by instance and genes by name. Measured counts are transformed to the scale of the prediction,
    ``uns["deepspot"]["scale"]``; spots without counts are left out. A training slide overestimates the accuracy of the
    model, and there is a warning if its image or counts are recognized: use slides of other patients, or
    :func:`deepspot.models.cross_validate`.

    Parameters
    ----------
    sdata
        Object with measured and predicted genes, see :func:`deepspot.tl.predict`.
    prediction_key
        Table with the prediction; needed only if there are several.
    table_key
        Table with the measured genes; needed only if there are several.
    shapes_key
        Shapes of the predicted table; needed only if there are several predictions.
    layer
        Layer of the measured table with raw counts, by default `X`.
    overwrite
        Replace columns of an earlier call.

    Returns
    -------
    None. Sets columns in `var` of the predicted table, float64, NaN for a gene that was not measured:

    ``pearson``, ``spearman``
        Correlation over spots; NaN if the prediction or the measurement is constant.
    ``pearson_beyond_axis``
        Pearson correlation after the first principal component of the standardized measured genes was regressed out of
        both; NaN where ``pearson`` is. Most genes share one axis, such as cellularity, so a map of it alone gives them
        all a high ``pearson``. This column shows what the prediction knows of the gene itself.
    ``pearson_depth``
        Correlation of the measured gene with the logarithm of all counts of a spot: a baseline without an image. It is
        high on the scale of raw counts, which contain the depth of a spot.
    ``pearson_ceiling``
        Highest correlation that a perfect prediction can have with such noisy counts, estimated from random halves of
        the counts and the Spearman-Brown formula; NaN for a gene whose halves do not agree. Its mean over genes is
        accurate to about 0.03. That of a single gene is accurate to about 0.1, of a shallow gene to 0.2 or more.
    ``rmse``
        Root mean squared error on the log scale.
    ``lee``
        Lee's L, the correlation after both are averaged over a spot and its neighbors (within 1.5 times the distance
        between spots). It is high only if both form the same spatial pattern, and low if one of them varies without
        a pattern.
    ``moran_predicted``, ``moran_measured``
        Moran's I, the spatial autocorrelation, computed by squidpy over the same neighbors with weights that sum to 1
        for each spot. NaN for a constant gene. It is larger for the prediction if the prediction is smoother than the
        measurement.
    ``measured_detected``
        Fraction of the spots in which the gene was detected. If it is low, no prediction can have a high correlation.

    Also sets ``uns["deepspot"]["agreement"]``, a dictionary:

    ``r``, ``r_beyond_axis``, ``r_depth``
        Means over genes of ``pearson``, ``pearson_beyond_axis`` and ``pearson_depth``.
    ``r_of_ceiling``
        Mean of ``pearson`` divided by the mean of ``pearson_ceiling``, over genes that have both.
    ``gene_agreement``
        Correlation between the predicted and the measured correlations of all pairs of genes.
    ``patterns_predicted``, ``patterns_measured``
        Effective number of spatial patterns of the genes: the participation ratio of their correlation matrix, which is
        1 if all have the same pattern. Noise of the counts makes the measured number too high.

    ``uns["deepspot"]["training_slide"]`` becomes ``"yes"`` if the counts show that the model learned from this slide.

    Raises
    ------
    KeyError
        If there is no such table, or no prediction at all.
    ValueError
        If there are several candidates, columns exist already, the scale of the prediction is unknown, or the measured
        table has no raw counts, fewer than half of the predicted genes, or fewer than three spots in common with the
        prediction.

    References
    ----------
    DeepSpot, section 4.3 (equation 2). Lee, "Developing a bivariate spatial association measure", Journal of
    Geographical Systems 2001. Palla et al., "Squidpy", Nature Methods 2022, for Moran's I.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5)["P1_S1"]
    >>> model = ds.models.train(sdata, genes=10, network={"width": 16, "members": 1}, training={"epochs": 2})
    >>> ds.tl.predict(sdata, model)
    >>> ds.tl.evaluate(sdata)
    >>> sdata.tables["deepspot_spots"].var["pearson"].shape
    (10,)
    """
    prediction_key = one_key(
        prediction_key, _predictions(sdata, shapes_key), "predictions in sdata.tables", "prediction_key"
    )
    prediction = sdata.tables[prediction_key]
    regions = regions_of(sdata, prediction_key)
    shapes_key = one_key(None, regions, f"regions of table {prediction_key!r}", "shapes_key")
    table_key = find_measured_table(sdata, shapes_key, table_key)
    check_entries(sdata, prediction_key, "var", COLUMNS, overwrite=overwrite)
    genes = list(prediction.var_names)
    check_shared_genes(genes, sdata.tables[table_key], table_key)
    scale = scale_in(prediction)
    truth = measured_counts(sdata, shapes_key, table_key, layer=layer).without_empty()

    rows, at = match_rows(prediction, sdata, shapes_key)
    _, ours, theirs = np.intersect1d(at, truth.rows, return_indices=True)
    if len(ours) < 3:
        raise InputError(
            f"Tables {prediction_key!r} and {table_key!r} share {len(ours)} spots of {shapes_key!r} with counts; at "
            "least 3 are needed. Predict the measured spots."
        )
    learned = prediction.uns[UNS][LEARNED] = learned_from(prediction, truth)
    if learned == "yes":
        logger.warning(
            "The model learned from this slide: the agreement is higher than on slides of other patients. "
            "`ds.models.cross_validate` holds out patients."
        )
    elif learned == "unknown":
        logger.info(
            "Whether the model learned from this slide is unknown, because its card has no hashes of its training "
            "slides. If it did, the agreement is higher than on slides of other patients."
        )
    expression, depth = targets([truth], genes, scale)
    trained_depth = prediction.uns[UNS].get("depth", depth)
    if trained_depth != depth:
        logger.warning(
            "The model was trained on counts normalized over %s, the measured counts are normalized over %s: `rmse` "
            "includes this difference, the correlations can be compared.",
            trained_depth,
            depth,
        )
    measured = expression[0][theirs]
    predicted = np.asarray(prediction.X[rows[ours]])
    neighbors = _ring(np.asarray(prediction.obsm["spatial"])[rows[ours]])
    depth_of_spots = truth.depth()[theirs]
    agreement = _agreement(predicted, measured, depth_of_spots, neighbors).set_axis(prediction.var_names)
    shared = agreement.index[np.isfinite(measured).any(axis=0)]
    counts = truth.counts[theirs][:, truth.genes.get_indexer(shared)]
    agreement.loc[shared, "pearson_ceiling"] = ceiling(counts, depth_of_spots, scale=scale)
    means = {
        "r": agreement["pearson"].mean(),
        "r_beyond_axis": agreement["pearson_beyond_axis"].mean(),
        "r_depth": agreement["pearson_depth"].mean(),
        "r_of_ceiling": mean_of_ceiling(agreement["pearson"].to_numpy(), agreement["pearson_ceiling"].to_numpy()),
        **compare_patterns(predicted, measured),
    }
    what = (
        f"agreement with {table_key!r} over {len(ours):,} spots (mean r {means['r']:.3f} over "
        f"{agreement['pearson'].count():,} genes; beyond their first axis {means['r_beyond_axis']:.3f}; of the depth "
        f"of spots alone {means['r_depth']:.3f})"
    )
    add_columns(sdata, prediction_key, agreement[list(COLUMNS)], what=what, overwrite=overwrite)
    prediction.uns[UNS]["agreement"] = {name: float(value) for name, value in means.items()}


def _agreement(predicted: np.ndarray, measured: np.ndarray, depth: np.ndarray, neighbors: csr_matrix) -> pd.DataFrame:
    """Return the agreement of genes (n, genes) in rows, without the ceiling; NaN for those that were not measured."""
    known = np.isfinite(measured).any(axis=0)
    log_depth = np.repeat(np.log(depth)[:, None], measured.shape[1], axis=1)
    r = pearson(predicted, measured)
    return pd.DataFrame(
        {
            "pearson": r,
            "pearson_beyond_axis": np.where(np.isfinite(r), beyond_first_axis(predicted, measured), np.nan),
            "pearson_depth": pearson(log_depth, measured),
            "spearman": spearman(predicted, measured),
            "rmse": rmse(predicted, measured),
            "lee": lee(predicted, measured, neighbors),
            "moran_predicted": np.where(known, moran(predicted, neighbors), np.nan),
            "moran_measured": moran(measured, neighbors),
            "measured_detected": np.where(known, (measured > 0).mean(axis=0), np.nan),
        }
    )


def _predictions(sdata: SpatialData, shapes_key: str | None) -> list[str]:
    if shapes_key is None:
        names = list(sdata.tables)
    else:
        names = tables_annotating(sdata, key_in(shapes_key, sdata.shapes, "sdata.shapes"))
    predicted = [name for name in names if kind_of(sdata.tables[name]) == PREDICTION]
    # Sub-spots and grids have no measurements.
    return [name for name in predicted if sdata.tables[name].uns[UNS].get("resolution", "spot") == "spot"]


def _ring(centers: np.ndarray) -> csr_matrix:
    from scipy.spatial import cKDTree

    nearest = cKDTree(centers).query(centers, k=2)[0][:, 1]
    return find_neighbors(centers, NeighborRule(reach=RING * float(np.median(nearest))))
