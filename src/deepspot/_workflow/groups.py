"""Groups of spots to compare: those that a slide has, else clusters of its predicted genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._sdata.tables import labels_of, rows_of, tables_annotating
from deepspot._sdata.write import add_labels
from deepspot._stats.oversample import leiden

if TYPE_CHECKING:
    from spatialdata import SpatialData

ANNOTATION, CLUSTERS = "annotation", "leiden"
COMPONENTS = 50


def choose_groups(
    sdata: SpatialData, wanted: str | None, key: str, shapes_key: str, notes: dict[str, str]
) -> str | None:
    """Name of a column with groups that the predicted table can be grouped by, made if there is none.

    Parameters
    ----------
    sdata
        The slide.
    wanted
        Column that was asked for.
    key, shapes_key
        Predicted genes and their spots.
    notes
        Why there are no groups is added here.

    Raises
    ------
    KeyError
        If no table has the column that was asked for.
    """
    used = sdata.tables[key].uns.get("deepspot_markers", {}).get("groupby")
    for column in [wanted] if wanted is not None else [used, ANNOTATION, CLUSTERS]:
        if column is not None and _bring(sdata, str(column), key, shapes_key):
            return str(column)
    if wanted is not None:
        labels_of(sdata, key, wanted)  # says what there is
    try:
        labels = clusters(np.asarray(sdata.tables[key].X))
    except ImportError as error:
        notes["Regions or clusters"] = str(error)
        logger.warning("No clusters: %s", error)
        return None
    rows = rows_of(sdata.tables[key], shapes_key)
    column = pd.Series(labels[rows.index.to_numpy()], index=pd.Index(rows))
    add_labels(sdata, shapes_key, CLUSTERS, column)
    logger.info("Found %d clusters of spots by their predicted genes (Leiden).", column.nunique())
    return CLUSTERS


def clusters(X: np.ndarray) -> pd.Categorical:
    """Clusters of spots by Leiden on principal components; the largest is called 1."""
    from sklearn.decomposition import PCA

    n = min(COMPONENTS, X.shape[0] - 1, X.shape[1])
    latent = PCA(n, random_state=settings.seed).fit_transform(X)
    found = leiden(latent, settings.seed)
    return pd.Categorical([str(1 + number) for number in found], [str(1 + number) for number in np.unique(found)])


def _bring(sdata: SpatialData, column: str, key: str, shapes_key: str) -> bool:
    """Whether the predicted table has labels; those of the measured table are taken over."""
    for name in [key, *(name for name in tables_annotating(sdata, shapes_key) if name != key)]:
        try:
            labels = labels_of(sdata, name, column)
        except KeyError:
            continue
        if name != key:
            rows = rows_of(sdata.tables[name], shapes_key)
            spread = pd.Series(
                pd.Categorical(labels.iloc[rows.index].to_numpy(), labels.cat.categories), index=pd.Index(rows)
            )
            add_labels(sdata, shapes_key, column, spread, overwrite=True)
        return True
    return False
