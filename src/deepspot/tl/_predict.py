from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot import _choose, _keys, _store, _tables
from deepspot._logging import logger
from deepspot._neighbors import check_array
from deepspot._settings import settings

from ._bags_of import bags_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._geometry import Geometry
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot
    from deepspot.models._card import ModelCard

# Above this share of strange spots the slide is another tissue, stain or scanner; 5 % are flagged on similar slides.
MANY_STRANGE = 0.25


def predict(
    sdata: SpatialData,
    model: DeepSpot | str | Path | None = None,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    encoder: str | Encoder | None = None,
    coordinate_system: str | None = None,
    unclipped: bool = False,
    intervals: bool = False,
    key_added: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
) -> None:
    """Predict gene expression of spots from the H&E image.

    Tiles are cut and embedded where that has not been done yet, at the physical size that the model was trained with.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale and shapes. Measured genes are not needed and not used.
    model
        From :func:`deepspot.tl.train`, or the path of a bundle; None takes the embedded model, which learnt from
        HER2-positive breast cancer of two patients.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    encoder
        Encoder of the model, should it not be in the registry under the name in the model's card.
    coordinate_system
        Coordinate system to relate spots and image with, should they share several that disagree.
    unclipped
        Keep the prediction as it left the model, negative values and all, in ``layers["unclipped"]``.
    intervals
        Add ``layers["lower"]`` and ``layers["upper"]``: 80 % of what would be measured on the next patient lies between
        them. Needs a model that was trained on at least 5 patients.
    key_added
        Name of the new table, by default ``deepspot_<shapes>``.
    overwrite
        Replace a table of that name.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.

    Returns
    -------
    None. Adds a feature table, unless there is one (see :func:`deepspot.pp.embed`), and a table ``deepspot_<shapes>``
    with one row for each shape:

    `X`
        (n, genes) float32, on the scale that scanpy calls log1p of counts per 10,000, not below 0.
    ``layers["unclipped"]``
        The same before negative values became 0, if asked for.
    ``layers["lower"]``, ``layers["upper"]``
        Ends of the intervals, not below 0, if asked for. They are calibrated over patients, one half width per gene;
        NaN for genes that fewer than 5 patients measured.
    ``var["expected_r"]``, ``var["expected_r_low"]``, ``var["expected_r_high"]``
        float32, Pearson r within a slide that the model's fits reached on patients that they had not seen, and its
        90 % interval over patients; NaN where unknown. ``uns["deepspot"]["expected_r_from"]`` says what was held out:
        if these were slides of one patient, expect less on another.
    ``obs["ood_score"]``, ``obs["ood"]``
        How unlike the training spots the tile is (float32, the threshold is 1), and whether it is above the threshold
        (bool). Do not trust these spots.
    `obs`
        Region and instance, by which the rows belong to the shapes.
    ``obsm["spatial"]``
        (n, 2) float64, centres as x and y in pixels of the full-resolution image.
    ``uns["log1p"]``
        Says to scanpy that `X` is on the log scale.
    ``uns["deepspot"]``
        `scale`, `depth`, `features` (name of that table), `ood_share`, and of the model `model` (its name),
        `fingerprint`, `preset`, `gate` (network, blend or ridge, and why), `expected_r_from`, `tissue`, `licence` and
        `versions`.

    Raises
    ------
    ValueError
        If the scale of the image is unknown or too coarse, the encoder is not the model's, the model has no intervals
        but they are asked for, or the result would be larger than `settings.max_table_gb`.

    References
    ----------
    DeepSpot, sections 4.2 and 4.4.1.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.tl.predict(sdata)
    >>> sdata.tables["deepspot_spots"].shape
    (12, 1000)
    """
    from deepspot import models
    from deepspot.pp._features import Request, add_features, plan_features

    ready = model if isinstance(model, models.DeepSpot) else models.load(model)
    card = _card(ready)
    geometry: Geometry = card.geometry  # type: ignore[assignment]
    image_key, shapes_key = _choose.image_and_shapes(sdata, image_key, shapes_key, geometry.tile.tile_um)
    key = key_added or _keys.prediction(shapes_key)
    _store.check_key(sdata, key, overwrite=overwrite)
    half_width = _half_width(card) if intervals else None
    _check_size(len(sdata.shapes[shapes_key]), len(card.genes), 1 + unclipped + 2 * intervals)
    check_array(geometry.neighbors, _tables.array_positions(sdata, shapes_key))
    request = Request(
        _encoder(card, encoder), geometry.tile, image_key, shapes_key, "subspots" in card.network.context,
        coordinate_system,
    )  # fmt: skip
    features_key = add_features(plan_features(sdata, request), device=device, batch_size=batch_size)
    features = sdata.tables[features_key]
    expression = ready.predict(bags_of(sdata, features_key, shapes_key, geometry.neighbors), device=device)

    region_key, instance_key = _tables.link_keys(sdata, shapes_key)
    layers: dict[str, Any] = {"unclipped": expression} if unclipped else {}
    if half_width is not None:
        layers |= {"lower": np.maximum(expression - half_width, 0), "upper": np.maximum(expression + half_width, 0)}
    obs = _strangeness(ready, features)
    table = _store.make_table(
        np.maximum(expression, 0),
        region=shapes_key,
        instances=pd.Index(_tables.rows_of(features, shapes_key)),
        region_key=region_key,
        instance_key=instance_key,
        obs=obs,
        var=_expected(card),
        layers=layers,
        obsm={"spatial": np.asarray(features.obsm["spatial"])},
        uns={"log1p": {}, _keys.UNS: _provenance(ready, card, features_key, float(obs["ood"].mean()))},
    )
    _store.add_table(sdata, key, table, what="predicted genes", overwrite=overwrite)
    if obs["ood"].mean() > MANY_STRANGE:
        logger.warning(
            "%.0f %% of the spots are unlike those that the model learnt from (obs['ood']): its predictions for them "
            "are not to be trusted.", 100 * obs["ood"].mean(),
        )  # fmt: skip


def _card(model: DeepSpot) -> ModelCard:
    if model.card is None:
        raise ValueError("The model is not fitted yet. Train one with `ds.tl.train`.")
    if model.card.geometry is None or model.card.encoder is None:
        raise ValueError(
            "The model was fitted on bare arrays, so its encoder and tile size are unknown. Train it on slides with "
            "`ds.tl.train`, or call `model.predict(bags)` on arrays."
        )
    return model.card


def _encoder(card: ModelCard, encoder: str | Encoder | None) -> Encoder:
    from deepspot import encoders

    ready = encoders.get(card.encoder.name if encoder is None else encoder)  # type: ignore[union-attr]
    if ready.fingerprint != card.encoder_fingerprint:
        raise ValueError(
            f"The model was trained on encoder {card.encoder.name!r} with other weights or preprocessing than "  # type: ignore[union-attr]
            f"{ready.card.name!r} has here. Pass the encoder that it was trained on with `encoder=`."
        )
    return ready


def _half_width(card: ModelCard) -> np.ndarray:
    reliability = card.reliability
    if reliability is None or reliability.half_width is None:
        why = "its gate was switched off" if reliability is None else reliability.why_no_interval
        raise ValueError(
            f"Model {card.name!r} has no intervals: {why.rstrip('.')}. Leave `intervals` out, or train on more "
            "patients."
        )
    return np.array(reliability.half_width, dtype=np.float32)


def _expected(card: ModelCard) -> pd.DataFrame:
    """Reliability of every gene, for `var`."""
    var = pd.DataFrame(index=pd.Index(card.genes))
    for column, field in {"expected_r": "r", "expected_r_low": "r_low", "expected_r_high": "r_high"}.items():
        values = np.nan if card.reliability is None else getattr(card.reliability, field)
        var[column] = np.asarray(values, dtype=np.float32) * np.ones(len(var), dtype=np.float32)
    return var


def _strangeness(model: DeepSpot, features: AnnData) -> pd.DataFrame:
    """How unlike the training spots every spot is, for `obs`."""
    obs = pd.DataFrame(index=pd.Index(features.obs_names))
    score = model.novelty.score(np.asarray(features.X))  # type: ignore[union-attr]
    return obs.assign(ood_score=score.astype(np.float32), ood=score > 1)


def _check_size(n: int, genes: int, copies: int) -> None:
    gb = n * genes * copies * np.dtype(np.float32).itemsize / 1e9
    if gb > settings.max_table_gb:
        raise ValueError(
            f"The prediction of {n:,} spots × {genes:,} genes would take {gb:.1f} GB in memory, above "
            f"`ds.settings.max_table_gb` = {settings.max_table_gb:g}. Raise the limit, or predict a part of the spots: "
            "streaming a whole slide to disk comes in a later version."
        )


def _provenance(model: DeepSpot, card: ModelCard, features_key: str, ood_share: float) -> dict[str, Any]:
    return {
        "kind": _keys.PREDICTION,
        "scale": card.scale,
        "depth": card.depth,
        "features": features_key,
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
