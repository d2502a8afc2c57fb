"""What a model predicted becomes a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot import _keys, _store, _tables
from deepspot.models._fitted import card_of, expected_r, ood_score

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
    expression = predicted.expression
    layers: dict[str, Any] = {"unclipped": expression} if unclipped else {}
    if half_width is not None:
        layers |= {"lower": np.maximum(expression - half_width, 0), "upper": np.maximum(expression + half_width, 0)}
    features = sdata.tables[predicted.features_key]
    score = ood_score(model, np.asarray(features.X))[predicted.rows]
    made = {"features": predicted.features_key, "image_key": features.uns[_keys.UNS]["image_key"]}
    return bare_table(
        sdata, model, predicted.shapes_key, predicted.index, predicted.centers, score,
        provenance=made | {"resolution": resolution} | predicted.provenance,
        X=np.maximum(expression, 0, out=None if layers else expression), layers=layers,
    )  # fmt: skip


def bare_table(
    sdata: SpatialData,
    model: DeepSpot,
    shapes_key: str,
    index: pd.Index,
    centers: np.ndarray,
    score: np.ndarray,
    *,
    provenance: dict[str, Any],
    **matrices: Any,
) -> AnnData:
    """Build all of the table but its matrices, which come as `X` and `layers`; see :func:`prediction_table`."""
    region_key, instance_key = _tables.link_keys(sdata, shapes_key)
    obs = pd.DataFrame(index=index.astype(str))
    if model.novelty is not None:
        obs = obs.assign(ood_score=score.astype(np.float32), ood=score > 1)
    ood_share = float("nan") if model.novelty is None else float(obs["ood"].mean())
    return _store.make_table(
        matrices.pop("X", None), region=shapes_key, instances=index, region_key=region_key, instance_key=instance_key,
        obs=obs, var=expected_r(card_of(model)), obsm={"spatial": centers},
        uns={"log1p": {}, _keys.UNS: _provenance(model, ood_share) | provenance}, **matrices,
    )  # fmt: skip


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
