"""What a fitted model says of itself, as far as prediction needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot._spatial.neighbors import RINGS

if TYPE_CHECKING:
    from deepspot.encoders import Encoder

    from . import DeepSpot
    from ._bundle.card import ModelCard


def card_of(model: DeepSpot) -> ModelCard:
    """Card of a model that was trained on slides."""
    if model.card is None:
        raise ValueError("The model is not fitted yet. Train one with `ds.tl.train`.")
    if model.card.geometry is None or model.card.encoder is None:
        raise ValueError(
            "The model was fitted on bare arrays, so its encoder and tile size are unknown. Train it on slides with "
            "`ds.tl.train`, or call `model.predict(bags)` on arrays."
        )
    return model.card


def encoder_of(card: ModelCard, encoder: str | Encoder | None) -> Encoder:
    """The encoder that a model was trained on: by its name, or as given."""
    from deepspot import encoders
    from deepspot.encoders._zoo import PREFIX

    if encoder is None and card.encoder.name.startswith(PREFIX):  # type: ignore[union-attr]
        raise ValueError(
            f"Model {card.name!r} needs encoder {card.encoder.name!r}, which loads its own weights with code of "  # type: ignore[union-attr]
            "lazyslide-models. If you want that, pass it as `encoder=`."
        )
    ready = encoders.get(card.encoder.name if encoder is None else encoder)  # type: ignore[union-attr]
    if ready.card.dim != card.dim:
        raise ValueError(
            f"Model {card.name!r} takes {card.dim} numbers per tile, and encoder {ready.card.name!r} gives "
            f"{ready.card.dim}. Pass the encoder that it was trained on with `encoder=`."
        )
    if not card.encoder_fingerprint:  # a converted checkpoint names its encoder, and no more
        if ready.card.name != card.encoder.name:  # type: ignore[union-attr]
            logger.warning(
                "Model %r needs encoder %r by its card, and %r is used: its predictions mean nothing unless both are "
                "the same.", card.name, card.encoder.name, ready.card.name,  # type: ignore[union-attr]
            )  # fmt: skip
        return ready
    if ready.fingerprint != card.encoder_fingerprint:
        raise ValueError(
            f"The model was trained on encoder {card.encoder.name!r} with other weights or preprocessing than "  # type: ignore[union-attr]
            f"{ready.card.name!r} has here. Pass the encoder that it was trained on with `encoder=`."
        )
    return ready


def spacing_of(card: ModelCard) -> float:
    """Distance in µm between the spots that a model was trained on."""
    rule = card.geometry.neighbors  # type: ignore[union-attr]
    if rule.kind != "radius":
        raise ValueError(
            f"Model {card.name!r} counts its neighbours in steps of an array of spots, and its card does not say how "
            "far apart these were. Give the distance between spots as `distance_um=`: for Visium it is 100."
        )
    return round(rule.reach / RINGS, 1)


def half_width(card: ModelCard) -> np.ndarray:
    """Half width of the interval of every gene."""
    reliability = card.reliability
    if reliability is None or reliability.half_width is None:
        why = "its gate was switched off" if reliability is None else reliability.why_no_interval
        raise ValueError(
            f"Model {card.name!r} has no intervals: {why.rstrip('.')}. Leave `intervals` out, or train on more "
            "patients."
        )
    return np.array(reliability.half_width, dtype=np.float32)


def ood_score(model: DeepSpot, spot: np.ndarray) -> np.ndarray:
    """How unlike the training data every spot (n, d) is (n,); NaN where the model does not know its training data."""
    return np.full(len(spot), np.nan, dtype=np.float32) if model.novelty is None else model.novelty.score(spot)


def expected_r(card: ModelCard) -> pd.DataFrame:
    """Reliability of every gene, for `var`."""
    var = pd.DataFrame(index=pd.Index(card.genes))
    for column, field in {"expected_r": "r", "expected_r_low": "r_low", "expected_r_high": "r_high"}.items():
        values = np.nan if card.reliability is None else getattr(card.reliability, field)
        var[column] = np.asarray(values, dtype=np.float32) * np.ones(len(var), dtype=np.float32)
    return var


def residuals_of(card: ModelCard) -> pd.DataFrame:
    """`dispersion` and `level` of every gene of a model; the median of the others where a gene's own are unknown."""
    known = card.reliability
    if known is None or known.dispersion is None or known.rate_level is None:
        raise ValueError(
            f"Model {card.name!r} does not know how far its predictions are off (`card.reliability.dispersion`), so a "
            "measurement cannot be weighed against them. Train it again with `ds.tl.train`, or take `method='replace'`."
        )
    values = {"dispersion": known.dispersion, "level": known.rate_level}
    found = pd.DataFrame(values, index=pd.Index(card.genes), dtype=float)
    return found.fillna(found.median()).fillna({"dispersion": 0.0, "level": 1.0})
