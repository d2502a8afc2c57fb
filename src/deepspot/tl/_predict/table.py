"""What a model predicted becomes a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import PREDICTION, UNS, key_in
from deepspot._core.logging import logger
from deepspot._sdata.tables import link_keys, match_rows
from deepspot._sdata.write import make_table
from deepspot._spatial.transforms import AGREE_PX
from deepspot.errors import InputError

from .resolution import at_spots, features_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.view import SlideView
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

    from .resolution import Predicted


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
    score = model.ood_score(np.asarray(features.X))[predicted.rows]
    made = {"features": predicted.features_key, "image_key": features.uns[UNS]["image_key"]}
    return bare_table(
        sdata,
        model,
        predicted.shapes_key,
        predicted.index,
        predicted.centers,
        score,
        provenance=made | {"resolution": resolution} | predicted.provenance,
        X=np.maximum(expression, 0, out=None if layers else expression),
        layers=layers,
    )


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
    region_key, instance_key = link_keys(sdata, shapes_key)
    obs = pd.DataFrame(index=index.astype(str))
    if model.ood.known:
        obs = obs.assign(ood_score=score.astype(np.float32), ood=score > 1)
    ood_share = float(obs["ood"].mean()) if model.ood.known else float("nan")
    return make_table(
        matrices.pop("X", None),
        region=shapes_key,
        instances=index,
        region_key=region_key,
        instance_key=instance_key,
        obs=obs,
        var=model.expected_r(),
        obsm={"spatial": centers},
        uns={"log1p": {}, UNS: _provenance(model, ood_share) | provenance},
        **matrices,
    )


def _provenance(model: DeepSpot, ood_share: float) -> dict[str, Any]:
    card = model.card
    return {
        "kind": PREDICTION,
        "scale": card.scale,
        "depth": card.depth,
        "ood_share": ood_share,
        "model": card.name,
        "fingerprint": model.fingerprint,
        "preset": card.preset,
        "gate": str(card.gate) if card.gate else "not measured",
        "expected_r_from": f"{known.n} {known.unit}" if (known := card.reliability) else "not measured",
        "license": card.license,
        "tissue": card.tissue,
        "versions": card.versions,
    }


def predicted(view: SlideView, model: DeepSpot, encoder: str | Encoder | None = None, **compute: Any) -> AnnData:
    """Table of the genes that a model predicts for the spots where they lie now: the stored one, else a new one."""
    key = find(view, model)
    if key is not None:
        return view.sdata.tables[key]
    made = at_spots(features_of(view, model, encoder), model, **compute)
    return prediction_table(view.sdata, model, made, resolution="spot", unclipped=False, half_width=None)


def find(view: SlideView, model: DeepSpot) -> str | None:
    """Name of a table that still holds what this model predicts for the spots where they lie now, if there is one."""
    genes = model.card.genes
    for key in view.tables(PREDICTION):
        table = view.sdata.tables[key]
        made = table.uns[UNS]
        same = made.get("fingerprint") == model.fingerprint and made.get("image_key", view.image_key) == view.image_key
        if same and _is_whole(table, genes) and _is_current(table, view):
            logger.info("Using sdata.tables[%r]: model and spots are the same.", key)
            return key
    return None


def stored(view: SlideView, key: str) -> AnnData:
    """A table of predicted genes, by name."""
    known = view.tables(PREDICTION)
    table = view.sdata.tables[key_in(key, known, f"predicted tables of {view.shapes_key!r}")]
    if not _is_current(table, view):
        raise InputError(
            f"Table {key!r} was predicted when the spots {view.shapes_key!r} lay elsewhere in the image. Predict again "
            "with `ds.tl.predict(…, overwrite=True)`."
        )
    return table


def _is_whole(table: AnnData, genes: list[str]) -> bool:
    """Whether a table is still as it was predicted: people cut and scale tables in place."""
    X = table.X if hasattr(table.X, "dask") else np.asarray(table.X)  # on disk it is looked at block by block
    return list(table.var_names) == genes and (X.size == 0 or bool(np.isfinite(X).all() and X.min() >= 0))


def _is_current(table: AnnData, view: SlideView) -> bool:
    ours, rows = match_rows(table, view.sdata, view.shapes_key)
    return bool(np.abs(np.asarray(table.obsm["spatial"])[ours] - view.centers[rows]).max(initial=0) <= AGREE_PX)
