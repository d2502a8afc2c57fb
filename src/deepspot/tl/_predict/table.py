"""Prediction of spots in memory, and the table of a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from deepspot._core.keys import LEARNED, PREDICTION, UNS, key_in
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._features.bags import Bags
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._sdata.tables import match_rows
from deepspot._sdata.view import NOUNS
from deepspot._sdata.write import make_table
from deepspot._spatial.transforms import AGREE_PX
from deepspot.errors import InputError
from deepspot.models._cells import CellSum
from deepspot.models._model import clip_expression, is_log, warn_of_impossible

if TYPE_CHECKING:
    from anndata import AnnData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot._sdata.view import SlideView
    from deepspot.encoders import Encoder
    from deepspot.models import Model

Resolution = Literal["spot", "subspot", "grid", "cell"]
# Spots per block, which bounds the memory besides that of the result.
BLOCK_SIZE = 1024


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted expression of the spots, sub-spots, grid points or cells of a view.

    `expression` is (m, genes) log-expression in float32, which can be negative for spots; `provenance` are entries of
    ``uns["deepspot"]``; `parents` (m,) are rows of the feature table, None if the places are the rows; `rows` (m,) are
    the predicted places of the view, None for all; `layers` and `obs` are added to the table.
    """

    view: SlideView
    expression: np.ndarray
    features_key: str
    provenance: dict[str, Any] = field(default_factory=dict)
    parents: np.ndarray | None = None
    rows: np.ndarray | None = None
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    obs: dict[str, np.ndarray] = field(default_factory=dict)


def predict_spots(
    features: SlideFeatures,
    model: Model,
    *,
    copies: int = 1,
    device: str | None = None,
    batch_size: int | None = None,
) -> Prediction:
    """Predict spots; the limit of memory is checked for `copies` matrices."""
    view, adds_up = features.view, isinstance(model, CellSum)
    check_size(model, features.n_spots, "spot", copies + adds_up)
    key = features.plan().add(device=device, batch_size=batch_size)
    bags = bags_of(view.sdata, key, view.shapes_key, model.geometry.neighbors)
    provenance = {"resolution": "spot", LEARNED: model.card.learned_from(features.image_hash)}
    layers = {"background": predict_background(model, bags, device=device)} if isinstance(model, CellSum) else {}
    return Prediction(view, predict_in_blocks(model, bags, device=device), key, provenance, layers=layers)


def check_size(model: Model, n: int, resolution: Resolution, copies: int = 1) -> None:
    """Raise if a prediction of n places would exceed the limit of memory."""
    genes = len(model.card.genes)
    gb = n * genes * copies * np.dtype(np.float32).itemsize / 1e9
    if gb > settings.max_table_gb:
        raise InputError(
            f"The prediction of {NOUNS[resolution].count(n)} × {genes:,} genes would take {gb:.1f} GB in memory, above "
            f"`ds.settings.max_table_gb` = {settings.max_table_gb:g}. Stream it to disk with `out='predicted.zarr'` "
            "(spots and cells only), raise the limit, or predict a part of the spots."
        )


def predict_in_blocks(model: Model, bags: Bags, *, device: str | None, block_size: int = BLOCK_SIZE) -> np.ndarray:
    """Predict log-expression (n, genes) like `model.predict`, one block of spots and their neighbors at a time."""
    expression = np.empty((len(bags), len(model.card.genes)), dtype=np.float32)
    for rows, block in in_blocks(bags, len(bags) if model.whole_slide else block_size):
        expression[rows] = model.predict(block, device=device, rows=np.arange(len(rows)))
    return expression


def predict_background(model: CellSum, bags: Bags, *, device: str | None) -> np.ndarray:
    """Predict the log-expression (n, genes) of spots outside of their cells."""
    background = np.empty((len(bags), len(model.card.genes)), dtype=np.float32)
    for rows, block in in_blocks(bags, BLOCK_SIZE):
        background[rows] = np.log1p(model.predict_background(block, device=device, rows=np.arange(len(rows))))
    return background


def in_blocks(bags: Bags, block_size: int) -> Iterator[tuple[np.ndarray, Bags]]:
    """Yield the rows (b,) of each block, and bags with these b spots first and their neighbors after them."""
    if len(bags) <= block_size:
        yield np.arange(len(bags)), bags
        return
    # Spots in strips across the slide have few neighbors in other blocks.
    order = np.arange(len(bags)) if bags.position is None else np.argsort(bags.position[:, 1], kind="stable")
    for start in range(0, len(order), block_size):
        rows = order[start : start + block_size]
        yield rows, bags.around(rows)


def prediction_table(
    model: Model, prediction: Prediction, *, unclipped: bool = False, half_width: np.ndarray | None = None
) -> AnnData:
    """Build the table of a prediction, see :func:`deepspot.tl.predict`; `half_width` (genes,) is that of intervals."""
    view, expression = prediction.view, prediction.expression
    layers = prediction.layers | ({"unclipped": expression} if unclipped else {})
    if half_width is not None:
        layers |= {
            "lower": clip_expression(model, expression - half_width)[0],
            "upper": clip_expression(model, expression + half_width)[0],
        }
    X, above = clip_expression(model, expression, out=None if unclipped else expression)
    warn_of_impossible(above, X.size)
    score = model.ood_score(np.asarray(view.sdata.tables[prediction.features_key].X))
    return bare_table(
        view,
        model,
        score if prediction.parents is None else score[prediction.parents],
        provenance={"features": prediction.features_key} | prediction.provenance,
        order=prediction.rows,
        more_obs=prediction.obs,
        X=X,
        layers=layers,
    )


def bare_table(
    view: SlideView,
    model: Model,
    score: np.ndarray,
    *,
    provenance: dict[str, Any],
    order: np.ndarray | None = None,
    more_obs: dict[str, np.ndarray] | None = None,
    **matrices: Any,
) -> AnnData:
    """Build the table of a prediction without its matrices, which are passed as `X` and `layers`.

    The rows are places of the view, by default all in its order; `score` (m,) is their OOD score, and `more_obs` are
    further columns.
    """
    order = np.arange(len(view.index)) if order is None else order
    index, card = view.index[order], model.card
    region_key, instance_key = view.link_keys
    obs = pd.DataFrame(index=index.astype(str))
    if model.ood.known:
        obs = obs.assign(ood_score=score.astype(np.float32), ood=score > 1)
    obs = obs.assign(**(more_obs or {}))
    reliability = card.reliability
    uns = {
        "kind": PREDICTION,
        "scale": card.scale,
        "depth": card.depth,
        "ood_share": float(obs["ood"].mean()) if model.ood.known else float("nan"),
        "model": card.name,
        "fingerprint": model.fingerprint,
        "preset": card.preset,
        "gate": str(card.gate) if card.gate else "not measured",
        "expected_r_from": f"{reliability.n} {reliability.unit}" if reliability else "not measured",
        "license": card.license,
        "tissue": card.tissue,
        "versions": card.versions,
        "training_spots": " ".join(str(value) for slide in card.slides for value in slide.hashes),
        "image_key": view.image_key,
    }
    return make_table(
        matrices.pop("X", None),
        region=view.shapes_key,
        instances=index,
        region_key=region_key,
        instance_key=instance_key,
        obs=obs,
        var=model.expected_r(),
        obsm={"spatial": view.centers[order]},
        uns=({"log1p": {}} if is_log(card.scale) else {}) | {UNS: uns | provenance},
        **matrices,
    )


def get_prediction(
    view: SlideView, model: Model, encoder: str | Encoder | None = None, *, default: bool = False, **compute: Any
) -> AnnData:
    """Return the predicted table of the spots, from the object if it has a current one, else a new one.

    A warning is logged if the model is only the `default`, and another one predicted the spots.
    """
    key = find_prediction(view, model, encoder)
    if key is not None:
        return view.sdata.tables[key]
    others = {name: view.sdata.tables[name].uns[UNS].get("model") for name in view.tables(PREDICTION)}
    others = {name: made for name, made in others.items() if made != model.card.name}
    if default and others:
        logger.warning(
            "The spots are predicted with model %r, because `model` is missing. These tables are of other models: %s.",
            *(model.card.name, others),
        )
    return prediction_table(model, predict_spots(model.features_of(view, encoder), model, **compute))


def learned_from(prediction: AnnData, measured: MeasuredCounts) -> str:
    """Return whether the model of a predicted table learned from this slide, by its image or counts: yes, no, unknown.

    The image is recognized by `ds.tl.predict`. A single equal spot may be so by chance.
    """
    uns = prediction.uns[UNS]
    known = np.array(uns.get("training_spots", "").split(), np.int64)
    if np.isin(measured.spot_hashes(list(prediction.var_names)), known).sum() > 1:
        return "yes"
    return str(uns.get(LEARNED, "no" if len(known) else "unknown"))


def log_learned(learned: str) -> None:
    """Log whether an agreement is that of a slide that the model learned from."""
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


def find_prediction(view: SlideView, model: Model, encoder: str | Encoder | None = None) -> str | None:
    """Return the name of a table with the prediction of this model for all genes and present spots, or None.

    With nuclei as sub-spots, the features must be in the object, so that the prediction is that of these nuclei.
    """
    for key in view.tables(PREDICTION):
        table = view.sdata.tables[key]
        uns = table.uns[UNS]
        # Cells can be predicted as spots of their own, and by a central sub-spot.
        same = uns.get("fingerprint") == model.fingerprint and uns.get("resolution", "spot") == "spot"
        same = same and uns.get("image_key", view.image_key) == view.image_key
        if same and _is_complete(table, model.card.genes) and is_current(table, view, every=True):
            if model.geometry.tile.subspots == "nuclei" and "subspots" in model.context:
                plan = model.features_of(view, encoder).plan()
                if not plan.exists or plan.key != uns.get("features"):
                    continue
            logger.info("Using sdata.tables[%r]: model and spots are the same.", key)
            return key
    return None


def stored_prediction(view: SlideView, key: str) -> AnnData:
    """Return a table of predicted genes by name; raise if the spots have moved since."""
    table = view.sdata.tables[key_in(key, view.tables(PREDICTION), f"predicted tables of {view.shapes_key!r}")]
    if not is_current(table, view):
        raise InputError(
            f"Table {key!r} was predicted for other positions of the spots {view.shapes_key!r}. Predict again with "
            "`ds.tl.predict(…, overwrite=True)`."
        )
    return table


def _is_complete(table: AnnData, genes: list[str]) -> bool:
    """Return whether a table still has all genes and values ≥ 0: tables are often subset or scaled in place."""
    X = table.X if hasattr(table.X, "dask") else np.asarray(table.X)  # a table on disk is read in blocks
    return list(table.var_names) == genes and (X.size == 0 or bool(np.isfinite(X).all() and X.min() >= 0))


def is_current(table: AnnData, view: SlideView, *, every: bool = False) -> bool:
    """Return whether the rows of a table are where the spots are now, with `every` if it has all spots."""
    rows, spots = match_rows(table, view.sdata, view.shapes_key)
    if every and len(spots) < len(view.index):
        return False
    return bool(np.abs(np.asarray(table.obsm["spatial"])[rows] - view.centers[spots]).max(initial=0) <= AGREE_PX)
