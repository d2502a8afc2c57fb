"""What a model predicts for the spots of a slide: the table that says so already, or a new one that is not added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot import _check, _coords, _keys, _tables
from deepspot._logging import logger
from deepspot.models._fitted import card_of

from ._prediction_table import prediction_table
from ._resolution import Source, at_spots, make_job

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot


def predicted(sdata: SpatialData, model: DeepSpot, source: Source, centers: np.ndarray) -> AnnData:
    """Table of predicted genes by this model, for the spots where they lie now (n, 2 centres in pixels)."""
    key = find(sdata, model, source.image_key, source.shapes_key, centers)
    if key is not None:
        return sdata.tables[key]
    job = make_job(sdata, model, source, _keys.prediction(source.shapes_key))
    return prediction_table(sdata, model, at_spots(job), resolution="spot", unclipped=False, half_width=None)


def find(sdata: SpatialData, model: DeepSpot, image_key: str, shapes_key: str, centers: np.ndarray) -> str | None:
    """Name of a table that still holds what this model predicts for the spots where they lie now, if there is one."""
    genes = card_of(model).genes
    for key in _tables.of_kind(sdata, shapes_key, _keys.PREDICTION):
        table = sdata.tables[key]
        made = table.uns[_keys.UNS]
        same = made.get("fingerprint") == model.fingerprint and made.get("image_key", image_key) == image_key
        if same and _is_whole(table, genes) and _is_current(table, sdata, shapes_key, centers):
            logger.info("Using sdata.tables[%r]: model and spots are the same.", key)
            return key
    return None


def stored(sdata: SpatialData, key: str, shapes_key: str, centers: np.ndarray) -> AnnData:
    """A table of predicted genes, by name."""
    known = _tables.of_kind(sdata, shapes_key, _keys.PREDICTION)
    table = sdata.tables[_check.key_in(key, known, f"predicted tables of {shapes_key!r}")]
    if not _is_current(table, sdata, shapes_key, centers):
        raise ValueError(
            f"Table {key!r} was predicted when the spots {shapes_key!r} lay elsewhere in the image. Predict again with "
            "`ds.tl.predict(…, overwrite=True)`."
        )
    return table


def _is_whole(table: AnnData, genes: list[str]) -> bool:
    """Whether a table is still as it was predicted: people cut and scale tables in place."""
    X = table.X if hasattr(table.X, "dask") else np.asarray(table.X)  # on disk it is looked at block by block
    return list(table.var_names) == genes and (X.size == 0 or bool(np.isfinite(X).all() and X.min() >= 0))


def _is_current(table: AnnData, sdata: SpatialData, shapes_key: str, centers: np.ndarray) -> bool:
    ours, rows = _tables.match(table, sdata, shapes_key)
    return bool(np.abs(np.asarray(table.obsm["spatial"])[ours] - centers[rows]).max(initial=0) <= _coords.AGREE_PX)
