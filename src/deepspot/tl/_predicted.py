"""What a model predicts for the spots of a slide: the table that says so already, or a new one that is not added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot import _check, _coords, _keys, _tables
from deepspot._logging import logger
from deepspot._neighbors import check_array
from deepspot.pp._features import Request

from ._fitted import card_of, encoder_of
from ._prediction_table import prediction_table
from ._resolution import Job, at_spots

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot


@dataclass(frozen=True)
class Source:
    """What a prediction is made from, and where; see :func:`deepspot.tl.predict`."""

    image_key: str
    shapes_key: str
    encoder: str | Encoder | None = None
    coordinate_system: str | None = None
    device: str | None = None
    batch_size: int | None = None


def predicted(sdata: SpatialData, model: DeepSpot, source: Source, centers: np.ndarray) -> AnnData:
    """Table of predicted genes by this model, for the spots where they lie now (n, 2 centres in pixels)."""
    card, shapes_key = card_of(model), source.shapes_key
    for key in predictions(sdata, shapes_key):
        table = sdata.tables[key]
        same = table.uns[_keys.UNS].get("fingerprint") == model.fingerprint
        if (
            same
            and _is_whole(table, sdata, source.image_key, card.genes)
            and _is_current(table, sdata, shapes_key, centers)
        ):
            logger.info("Using sdata.tables[%r]: model and spots are the same.", key)
            return table
    geometry = card.geometry
    check_array(geometry.neighbors, _tables.array_positions(sdata, shapes_key))  # type: ignore[union-attr]
    request = Request(
        encoder_of(card, source.encoder), geometry.tile, source.image_key, shapes_key,  # type: ignore[union-attr]
        "subspots" in card.network.context, source.coordinate_system,
    )  # fmt: skip
    job = Job(
        sdata, model, request, _keys.prediction(shapes_key), overwrite=False, copies=1, grid_um=None,
        device=source.device, batch_size=source.batch_size,
    )  # fmt: skip
    return prediction_table(sdata, model, at_spots(job), resolution="spot", unclipped=False, half_width=None)


def stored(sdata: SpatialData, key: str, shapes_key: str, centers: np.ndarray) -> AnnData:
    """A table of predicted genes, by name."""
    table = sdata.tables[_check.key_in(key, predictions(sdata, shapes_key), f"predicted tables of {shapes_key!r}")]
    if not _is_current(table, sdata, shapes_key, centers):
        raise ValueError(
            f"Table {key!r} was predicted when the spots {shapes_key!r} lay elsewhere in the image. Predict again with "
            "`ds.tl.predict(…, overwrite=True)`."
        )
    return table


def predictions(sdata: SpatialData, shapes_key: str) -> list[str]:
    """Names of the tables with predicted genes of a shapes element."""
    return [
        key for key in _tables.annotating(sdata, shapes_key)
        if sdata.tables[key].uns.get(_keys.UNS, {}).get("kind") == _keys.PREDICTION
    ]  # fmt: skip


def _is_whole(table: AnnData, sdata: SpatialData, image_key: str, genes: list[str]) -> bool:
    """Whether a table is still what was predicted from this image: people cut and scale tables in place."""
    features = sdata.tables.get(table.uns[_keys.UNS]["features"])
    from_image = features is not None and features.uns.get(_keys.UNS, {}).get("image_key") == image_key
    X = np.asarray(table.X)
    return from_image and list(table.var_names) == genes and bool(np.isfinite(X).all() and X.min(initial=0) >= 0)


def _is_current(table: AnnData, sdata: SpatialData, shapes_key: str, centers: np.ndarray) -> bool:
    ours, rows = _tables.match(table, sdata, shapes_key)
    return bool(np.abs(np.asarray(table.obsm["spatial"])[ours] - centers[rows]).max(initial=0) <= _coords.AGREE_PX)
