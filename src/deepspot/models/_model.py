"""What the package needs of any model: its card, and prediction of the spots of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.hashing import digest
from deepspot._core.keys import FEATURES
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._features.feature_table import SlideFeatures
from deepspot._features.stored import find_imported
from deepspot._spatial.neighbors import RINGS, check_array
from deepspot._stats.normalize import known_scale
from deepspot.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from deepspot._features.bags import Bags
    from deepspot._sdata.view import SlideView
    from deepspot._spatial.geometry import Geometry
    from deepspot.encoders import Encoder, EncoderCard

    from ._bundle.card import Card
    from ._confidence.ood import OODDetector


class Model:
    """Interface of all models that functions such as :func:`deepspot.tl.predict` take.

    :class:`DeepSpot` is one; :func:`deepspot.models.adapt` makes one of the predictor of another package, and
    :func:`deepspot.models.calibrate` one that was calibrated.

    Attributes
    ----------
    card
        Genes, scale, geometry, encoder, license and reliability.
    ood
        Detector of spots unlike the training data. Its scores are NaN if these are unknown.
    device
        Device for prediction; None takes `settings.device`, or else CUDA, MPS or the CPU.
    whole_slide
        Whether the model must see all spots of a slide in one call.
    spots_are_cells
        Whether the model was made for measured cells, which are its spots.
    has_cells
        Whether its spots consist of cells, which it predicts, too.
    not_saved
        Reason why the model cannot be saved as a bundle; empty if it can.
    calibration
        Data frame of :func:`deepspot.models.calibrate`, only for its result.
    """

    card: Card
    ood: OODDetector
    device: str | None = None
    whole_slide: bool = False
    spots_are_cells: bool = False
    has_cells: bool = False
    not_saved: str = ""
    calibration: pd.DataFrame

    @property
    def context(self) -> tuple[str, ...]:
        """Embeddings that the model uses: of the spot, its sub-spots, its neighbors."""
        return ("spot",)

    @property
    def fingerprint(self) -> str:
        """Content hash of everything that a prediction depends on."""
        raise NotImplementedError

    @property
    def calibration_hash(self) -> str:
        """Content hash of what a calibration replaced; empty without one."""
        if not self.card.calibrated_on:
            return ""
        known = None if self.card.reliability is None else self.card.reliability.model_dump(mode="json")
        return digest(self.ood.core, self.ood.threshold, known)

    def predict(self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict expression (n, genes) of all spots, or of `rows`, on the scale of the card, in float32."""
        raise NotImplementedError

    def save(self, path: str | Path, *, half_precision: bool = False, overwrite: bool = False) -> None:
        """Save the model as a bundle, if it can be saved."""
        raise InputError(
            f"Model {self.card.name!r} is not saved: {self.not_saved}. Store what makes it, and make it again after "
            "loading that."
        )

    def features_of(
        self, view: SlideView, encoder: str | Encoder | None = None, *, spots: bool = True
    ) -> SlideFeatures:
        """Return the features that the model needs of a slide, after checking that they can be computed.

        Those of `spots` may have been made elsewhere, unless an `encoder` is given.
        """
        check_array(self.geometry.neighbors, view.array_positions)
        tile, subspots = self.geometry.tile, "subspots" in self.context
        if spots and encoder is None and view.tables(FEATURES):
            known = self.card.encoder_fingerprint
            found = find_imported(view, self.encoder_card, tile, subspots=subspots, fingerprint=known)
            if found is not None:
                return SlideFeatures(view, found.encoder, tile, subspots, stored=found.key)
        return SlideFeatures(view, self.get_encoder(encoder), tile, subspots)

    @property
    def geometry(self) -> Geometry:
        """Tiles and neighbors of the training; ValueError if the model was fitted to arrays.

        A card that does not state the array of its training spots is from before this field. Then the pitch is that of
        the default radius, and the array is square, as that of the embedded model.
        """
        geometry = self._geometry_and_encoder()[0]
        rule = geometry.neighbors
        if rule.kind == "box" or rule.pitch_um is not None:
            return geometry
        array = {"pitch_um": round(rule.reach / RINGS, 1), "layout": "square"}
        return geometry.model_copy(update={"neighbors": rule.model_copy(update=array)})

    @property
    def encoder_card(self) -> EncoderCard:
        """Card of the encoder of the training; ValueError if the model was fitted to arrays."""
        return self._geometry_and_encoder()[1]

    def _geometry_and_encoder(self) -> tuple[Geometry, EncoderCard]:
        if self.card.geometry is None or self.card.encoder is None:
            raise InputError(
                "The model was fitted to arrays, so its encoder and tile size are unknown. Train it on slides with "
                "`ds.models.train`, or call `model.predict(bags)` on arrays."
            )
        return self.card.geometry, self.card.encoder

    @property
    def pitch_um(self) -> float:
        """Distance in µm between the training spots; ValueError if the card does not state it."""
        pitch = self.geometry.neighbors.pitch_um
        if pitch is None:
            raise InputError(
                f"Model {self.card.name!r} counts its neighbors in steps of the spot array, and its card does not "
                "state the distance between spots. Pass it as `pitch_um=`: for Visium it is 100."
            )
        return pitch

    def spot_size(self, diameter_um: float | None = None, pitch_um: float | None = None) -> tuple[float, float]:
        """Return diameter and pitch of spots in µm: the given values, or by default those of the training."""
        diameter = self.geometry.tile.tile_um if diameter_um is None else diameter_um
        pitch = self.pitch_um if pitch_um is None else pitch_um
        return float(check_positive(diameter, "diameter_um")), float(check_positive(pitch, "pitch_um"))

    def ood_score(self, spot: np.ndarray) -> np.ndarray:
        """Return the out-of-distribution score (n,) of embeddings (n, d): above 1 is OOD, NaN is unknown."""
        return self.ood.score(spot)

    def expected_r(self) -> pd.DataFrame:
        """Return the expected r of every gene, its interval, number of units, r beyond the first axis, and ceiling.

        They are columns for `var` of a prediction, NaN if unknown.
        """
        var = pd.DataFrame(index=pd.Index(self.card.genes))
        for field in ("r", "r_low", "r_high", "r_n", "r_beyond_axis", "r_ceiling"):
            values = None if self.card.reliability is None else getattr(self.card.reliability, field)
            values, column = np.nan if values is None else values, f"expected_{field}"
            var[column] = np.asarray(values, dtype=np.float32) * np.ones(len(var), dtype=np.float32)
        return var

    def half_width(self) -> np.ndarray:
        """Return the half width (genes,) of the prediction intervals; raise if the model has none."""
        reliability = self.card.reliability
        if reliability is None or reliability.half_width is None:
            why = "the gate was off in training" if reliability is None else reliability.why_no_interval
            raise InputError(
                f"Model {self.card.name!r} has no intervals: {why.rstrip('.')}. Leave `intervals` out, or train on "
                "more patients."
            )
        return np.array(reliability.half_width, dtype=np.float32)

    def residuals(self) -> pd.DataFrame:
        """Return the `dispersion` of every gene; genes without one get the median of the others."""
        reliability = self.card.reliability
        if reliability is None or reliability.dispersion is None:
            raise InputError(
                f"Model {self.card.name!r} has no `card.reliability.dispersion`, the error of its predictions, so they "
                "cannot be weighed against measurements. Train it with `ds.models.train`, calibrate it with "
                "`ds.models.calibrate`, or pass `method='replace'`."
            )
        frame = pd.DataFrame({"dispersion": reliability.dispersion}, index=pd.Index(self.card.genes), dtype=float)
        return frame.fillna(frame.median()).fillna(0.0)

    def get_encoder(self, encoder: str | Encoder | None = None) -> Encoder:
        """Return the encoder of the training: the given one if it fits, else the one named in the card."""
        from deepspot import encoders
        from deepspot.encoders._lazyslide import PREFIX

        card, needed = self.card, self.encoder_card.name
        if encoder is None and needed.startswith(PREFIX):
            raise InputError(
                f"Model {card.name!r} needs encoder {needed!r}, which loads its own weights with code of "
                "lazyslide-models. To allow this, pass it as `encoder=`. Features that were made elsewhere need no "
                "encoder: see `ds.pp.use_features`."
            )
        try:
            ready = encoders.get(needed if encoder is None else encoder)
        except (KeyError, OSError) as error:
            if encoder is None:
                error.add_note("Features that were made elsewhere need no encoder: see `ds.pp.use_features`.")
            raise
        if ready.card.dim != card.dim:
            raise InputError(
                f"Model {card.name!r} takes embeddings of length {card.dim}, but encoder {ready.card.name!r} gives "
                f"{ready.card.dim}. Pass the encoder that it was trained on with `encoder=`."
            )
        if card.encoder_fingerprint and ready.fingerprint != card.encoder_fingerprint:
            raise InputError(
                f"The model was trained on encoder {needed!r} with other weights or preprocessing than those of "
                f"{ready.card.name!r}. Pass the encoder that it was trained on with `encoder=`."
            )
        if ready.card.name != needed:  # of a converted checkpoint, or an own encoder with the same fingerprint
            logger.warning(
                "Model %r needs encoder %r by its card, but %r is used. Its predictions are valid only if both are the "
                "same.",
                *(card.name, needed, ready.card.name),
            )
        return ready


def is_log(scale: str) -> bool:
    """Return whether a scale is log1p of something that is not negative."""
    return scale.startswith("log1p")


def clip_expression(model: Model, expression: np.ndarray, *, out: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Clip predicted log-expression to the possible values, and return it with the number of values above them.

    Other scales than logarithms of counts can have any value. Pass the number to :func:`warn_of_impossible`, once for a
    slide.
    """
    if not is_log(model.card.scale):
        return expression.copy() if out is None else out, 0
    scale = known_scale(model.card.scale)
    highest = float("inf") if scale is None else scale.highest
    # Without values above, no mask as large as the prediction.
    above = int((expression > highest).sum()) if expression.max(initial=0) > highest else 0
    return np.clip(expression, 0, highest, out=out), above


def warn_of_impossible(above: int, total: int) -> None:
    """Log how many of the predicted values of a slide were impossible, if any."""
    if above:
        logger.warning(
            "%s of %s predicted values were above that of a gene with all counts of a spot, and were set to it. The "
            "model extrapolates: the tissue may be unlike the training tissue, see obs['ood'].",
            *(f"{number:,}" for number in (above, total)),
        )
