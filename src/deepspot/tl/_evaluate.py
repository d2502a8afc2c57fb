from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import PREDICTION, UNS, key_in, one_key
from deepspot._core.logging import logger
from deepspot._sdata.measured import measured_counts
from deepspot._sdata.tables import check_shared_genes, find_measured_table, kind_of, match_rows, tables_annotating
from deepspot._sdata.write import add_columns, check_entries
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors
from deepspot._stats.metrics import lee, moran, pearson, rmse, spearman
from deepspot.errors import InputError
from deepspot.models._training.targets import targets

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

COLUMNS = ("pearson", "spearman", "rmse", "lee", "moran_predicted", "moran_measured", "measured_detected")
# In units of the distance to the nearest spot: the first ring of hexagons (1) and of squares (1 and √2), no more.
RING = 1.5


def evaluate(
    sdata: SpatialData,
    *,
    prediction_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    overwrite: bool = False,
) -> None:
    """Compare predicted genes with the measured ones of the same spots, gene by gene.

    Spots are matched by instance and genes by name. Measured counts are put on the scale of the prediction, log1p of
    counts per 10,000; spots without any count are left out. A slide of the training set does not measure
    accuracy: compare on slides of other patients, or use :func:`deepspot.models.cross_validate`.

    Parameters
    ----------
    sdata
        Object with measured and predicted genes, see :func:`deepspot.tl.predict`.
    prediction_key
        Table with the prediction; needed only if there are several.
    table_key
        Table with the measured genes; needed only if there are several.
    shapes_key
        Only consider predictions for these spots.
    layer
        Layer of the measured table with raw counts, by default `X`.
    overwrite
        Replace columns of an earlier comparison.

    Returns
    -------
    None. Sets columns in `var` of the predicted table, float64, NaN for a gene that was not measured:

    ``pearson``, ``spearman``
        Correlation over spots; NaN where the prediction or the measurement does not vary.
    ``rmse``
        Root of the mean squared error, in units of the log scale.
    ``lee``
        Lee's L, a spatial correlation: both are averaged over a spot and the ring of spots around it (those
        within 1.5 times the distance between spots), and then compared. It is high only where both form the same
        pattern, and low where one of them varies from spot to spot without any.
    ``moran_predicted``, ``moran_measured``
        Moran's I, the spatial autocorrelation, computed by squidpy over the same ring of spots, with weights that sum
        to 1 for each spot. NaN where the gene does not vary. It is larger for a prediction that is smoother than the
        measurement.
    ``measured_detected``
        Share of the spots in which the gene was detected. If it is low, no prediction can correlate well.

    Raises
    ------
    KeyError
        If there is no such table, or no prediction at all.
    ValueError
        If there are several candidates, columns exist already, the measured table does not hold raw counts, measures
        under half of the genes, or shares under three spots with the prediction.

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
    check_entries(sdata, prediction_key, "var", COLUMNS, overwrite=overwrite)
    prediction = sdata.tables[prediction_key]
    shapes_key = _region(sdata, prediction_key)
    table_key = find_measured_table(sdata, shapes_key, table_key)
    genes = list(prediction.var_names)
    check_shared_genes(genes, sdata.tables[table_key], table_key)
    truth = measured_counts(sdata, shapes_key, table_key, layer=layer, name=prediction_key).without_empty()

    rows, at = match_rows(prediction, sdata, shapes_key)
    _, ours, theirs = np.intersect1d(at, truth.rows, return_indices=True)
    if len(ours) < 3:
        raise InputError(
            f"Tables {prediction_key!r} and {table_key!r} share {len(ours)} spots of {shapes_key!r} with counts, at "
            "least 3 are needed. Predict the spots that were measured."
        )
    expression, depth = targets([truth], genes)
    learned_depth = prediction.uns[UNS].get("depth", depth)
    if learned_depth != depth:
        logger.warning(
            "The model learned expression over %s, here it is over %s: correlations can be compared, `rmse` is off by "
            "what the others take of a spot's counts.",
            learned_depth,
            depth,
        )
    measured = expression[0][theirs]
    predicted = np.asarray(prediction.X[rows[ours]])
    neighbors = _ring(np.asarray(prediction.obsm["spatial"])[rows[ours]])
    known = np.isfinite(measured).any(axis=0)
    agreement = pd.DataFrame(
        {
            "pearson": pearson(predicted, measured),
            "spearman": spearman(predicted, measured),
            "rmse": rmse(predicted, measured),
            "lee": lee(predicted, measured, neighbors),
            "moran_predicted": np.where(known, moran(predicted, neighbors), np.nan),
            "moran_measured": moran(measured, neighbors),
            "measured_detected": np.where(known, (measured > 0).mean(axis=0), np.nan),
        },
        index=prediction.var_names,
    )
    r = agreement["pearson"].dropna()
    what = f"agreement with {table_key!r} over {len(ours):,} spots (mean r {r.mean():.3f} over {len(r):,} genes)"
    add_columns(sdata, prediction_key, agreement, what=what, overwrite=overwrite)


def _predictions(sdata: SpatialData, shapes_key: str | None) -> list[str]:
    if shapes_key is None:
        names = list(sdata.tables)
    else:
        names = tables_annotating(sdata, key_in(shapes_key, sdata.shapes, "sdata.shapes"))
    predicted = [name for name in names if kind_of(sdata.tables[name]) == PREDICTION]
    # Sub-spots and grids were never measured.
    return [name for name in predicted if sdata.tables[name].uns[UNS].get("resolution", "spot") == "spot"]


def _region(sdata: SpatialData, prediction_key: str) -> str:
    region = sdata.tables[prediction_key].uns["spatialdata_attrs"]["region"]
    return one_key(
        None,
        [region] if isinstance(region, str) else list(region),
        f"regions of table {prediction_key!r}",
        "shapes_key",
    )


def _ring(centers: np.ndarray) -> csr_matrix:
    from scipy.spatial import cKDTree

    nearest = cKDTree(centers).query(centers, k=2)[0][:, 1]
    return find_neighbors(centers, NeighborRule(reach=RING * float(np.median(nearest))))
