"""What a model predicted becomes a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot import _keys, _store, _tables

from ._fitted import card_of, expected_r

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot

    from ._resolution import Predicted


def prediction_table(
    sdata: SpatialData,
    model: DeepSpot,
    predicted: Predicted,
    *,
    resolution: str,
    unclipped: bool,
    half_width: np.ndarray | None,
) -> AnnData:
    """Build the table of a prediction, as :func:`deepspot.tl.predict` describes it.

    Parameters
    ----------
    sdata
        Object that the table is for; it is not changed.
    model
        What predicted.
    predicted
        What it predicted.
    resolution
        To be recorded.
    unclipped
        Keep the prediction as it left the model.
    half_width
        (genes,) of the intervals; None adds none.
    """
    expression, shapes_key = predicted.expression, predicted.shapes_key
    region_key, instance_key = _tables.link_keys(sdata, shapes_key)
    layers: dict[str, Any] = {"unclipped": expression} if unclipped else {}
    if half_width is not None:
        layers |= {"lower": np.maximum(expression - half_width, 0), "upper": np.maximum(expression + half_width, 0)}
    obs = _strangeness(sdata, model, predicted)
    provenance = _provenance(model, float(obs["ood"].mean()))
    features = sdata.tables[predicted.features_key].uns[_keys.UNS]
    provenance |= {"features": predicted.features_key, "image_key": features["image_key"]}
    return _store.make_table(
        np.maximum(expression, 0, out=None if layers else expression),
        region=shapes_key,
        instances=predicted.index,
        region_key=region_key,
        instance_key=instance_key,
        obs=obs,
        var=expected_r(card_of(model)),
        layers=layers,
        obsm={"spatial": predicted.centers},
        uns={"log1p": {}, _keys.UNS: provenance | {"resolution": resolution} | predicted.provenance},
    )


def _strangeness(sdata: SpatialData, model: DeepSpot, predicted: Predicted) -> pd.DataFrame:
    """How unlike the training spots every spot is, for `obs`."""
    score = model.novelty.score(np.asarray(sdata.tables[predicted.features_key].X))  # type: ignore[union-attr]
    score = score[predicted.rows]
    obs = pd.DataFrame(index=predicted.index.astype(str))
    return obs.assign(ood_score=score.astype(np.float32), ood=score > 1)


def _provenance(model: DeepSpot, ood_share: float) -> dict[str, Any]:
    card = card_of(model)
    return {
        "kind": _keys.PREDICTION,
        "scale": card.scale,
        "depth": card.depth,
        "ood_share": ood_share,
        "model": card.name,
        "fingerprint": model.fingerprint,
        "preset": card.preset,
        "gate": str(card.gate) if card.gate else "not measured",
        "expected_r_from": f"{known.n} {known.unit}" if (known := card.reliability) else "not measured",
        "licence": card.licence,
        "tissue": card.tissue,
        "versions": card.versions,
    }
