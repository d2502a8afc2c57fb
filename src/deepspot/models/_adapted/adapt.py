from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.keys import valid_name
from deepspot._core.validate import check_count, check_positive, check_text
from deepspot._features.bags import Bags
from deepspot._spatial.geometry import Geometry, NeighborRule, TileGeometry
from deepspot._spatial.neighbors import RINGS
from deepspot._stats.normalize import SCALES
from deepspot.encoders import EncoderCard
from deepspot.encoders._lazyslide import PREFIX, inferred_preprocessing
from deepspot.errors import InputError, InputTypeError, MissingKeyError
from deepspot.models._bundle.card import Card
from deepspot.models._confidence.ood import OODDetector
from deepspot.models._inputs import which_rows
from deepspot.models._model import Model

from .predictors import TilePrediction, genes_of_features, genes_of_tiles, identity, move, predict_features

if TYPE_CHECKING:
    from deepspot.encoders import Encoder

UNKNOWN = "unknown"
ADAPTED = "adapted"
# Attributes of LazySlide's models of features; those of tiles have none of them.
OF_FEATURES = ("features_model_name", "needs_coords", "whole_slide")


class AdaptedModel(Model):
    """Predictor of another package as a model; see :func:`deepspot.models.adapt`.

    Attributes
    ----------
    predictor
        The object that predicts.
    card
        Genes, scale, geometry, encoder and license.
    tiles
        Whether it predicts from tiles, and not from features of an encoder.
    """

    not_saved = "it is code of another package, and bundles contain no code"

    def __init__(self, predictor: Any, card: Card, *, outputs: TilePrediction | None, encoder: Encoder | None) -> None:
        self.predictor, self.card, self.outputs, self.encoder = predictor, card, outputs, encoder
        self.ood = OODDetector.unknown(card.dim)
        self.needs_coords = outputs is None and bool(getattr(predictor, "needs_coords", False))
        self.whole_slide = outputs is None and bool(getattr(predictor, "whole_slide", False))
        self._identity = outputs.fingerprint if outputs is not None else identity(predictor)

    def __repr__(self) -> str:
        made_from = "tiles" if self.tiles else f"features of {self.encoder_card.name}"
        return (
            f"AdaptedModel {self.card.name!r}: {len(self.card.genes):,} genes from {made_from}, tiles of "
            f"{self.geometry.tile.tile_um:g} µm; scale {self.card.scale!r}; license {self.card.license}"
        )

    @property
    def tiles(self) -> bool:
        """Whether the model predicts from tiles, and not from features of an encoder."""
        return self.outputs is not None

    @property
    def fingerprint(self) -> str:
        """Content hash of code, weights, genes, geometry, encoder and scale."""
        fields = {"genes", "scale", "geometry", "encoder", "encoder_fingerprint"}
        return digest(self._identity, self.card.model_dump(mode="json", include=fields), self.calibration_hash)

    def get_encoder(self, encoder: str | Encoder | None = None) -> Encoder:
        """Return the encoder of the features; a model of tiles is its own."""
        if self.outputs is None:
            return super().get_encoder(self.encoder if encoder is None else encoder)
        if encoder is not None:
            raise InputError(f"Model {self.card.name!r} predicts from tiles. Leave `encoder` out.")
        return self.outputs

    def predict(self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict expression on the scale of the card.

        Parameters
        ----------
        bags
            Features of n spots, or predicted genes of a model of tiles; with `origins` if the predictor needs the
            coordinates of tiles.
        device
            Device; None takes that of the model.
        rows
            Spots to predict, as row numbers or as a mask; by default all.

        Returns
        -------
        (n, genes) or (rows, genes) in float32.

        Raises
        ------
        ValueError
            If the features have another length, origins are missing, or the predictor returns arrays of another length.
        """
        if bags.dim != self.card.dim:
            raise InputError(f"The model takes features of length {self.card.dim}, got {bags.dim}.")
        rows = which_rows(rows, len(bags))
        if self.tiles:
            return np.asarray(bags.spot[rows], dtype=np.float32)
        if self.needs_coords and bags.origins is None:
            raise InputError(f"Model {self.card.name!r} needs the coordinates of tiles: `bags.origins` is missing.")
        move(self.predictor, device or self.device)
        given = np.arange(len(bags)) if self.whole_slide else rows
        origins = bags.origins[given] if self.needs_coords and bags.origins is not None else None
        expression = predict_features(self.predictor, bags.spot[given], origins, self.card.genes, self.card.name)
        return expression[rows] if self.whole_slide else expression


def adapt(
    predictor: Any,
    *,
    encoder: str | Encoder | EncoderCard | None = None,
    genes: Sequence[str] | None = None,
    tile_um: float | None = None,
    pitch_um: float | None = None,
    input_px: int = 224,
    scale: str = UNKNOWN,
    name: str | None = None,
    license: str | None = None,
    tissue: str = "",
) -> AdaptedModel:
    """Make a model of the predictor of another package.

    The result goes through :func:`deepspot.tl.predict`, :func:`deepspot.tl.evaluate`, :func:`deepspot.tl.correct`,
    :func:`deepspot.tl.check_alignment`, :func:`deepspot.cohort.run` and :func:`deepspot.report`. Nothing is known of
    its accuracy and of its training data: expected r, intervals and out-of-distribution scores are missing until
    :func:`deepspot.models.calibrate` measures them. It is not saved as a bundle, which contains no code.

    Parameters
    ----------
    predictor
        One of:

        - An object with LazySlide's ``FeaturePredictionModelProtocol``: `predict(features)`, or with ``needs_coords``
          `predict(features, origins)`, where origins (n, 2) are x and y of the top left corner of tiles in pixels of
          the full-resolution image. With ``whole_slide`` it gets all spots of a slide in one call.
        - An object with LazySlide's ``TilePredictionModelProtocol``: `predict(images)` of tiles that its
          `get_transform()` prepares.
        - A function of tiles (n, `input_px`, `input_px`, 3) in uint8 that returns (n, genes), or a mapping.

        Predictors return a mapping from genes to arrays (n,) or (n, 1).
    encoder
        Encoder of the features: name in :func:`deepspot.encoders.available`, an encoder, or a card if the features are
        made elsewhere (:func:`deepspot.pp.use_features`). By default the one that the object names in
        `features_model_name`.
    genes
        Names of the columns of a function that returns an array; for others the genes to keep. By default all that the
        predictor returns when it is tried on a white tile or on features that are 0.
    tile_um
        Side of a tile in µm. By default that of the encoder's training (its input at its µm per pixel), if known.
    pitch_um
        Distance between spots that :func:`deepspot.cohort.run` places, by default `tile_um`.
    input_px
        Side in pixels of the tiles of a function.
    scale
        Scale of the prediction: ``"log1p_10k"``, ``"log1p_counts"`` or ``"log1p_cpm"``, see
        :class:`deepspot.models.SlideKeys`, can be corrected and compared in level. Any other text is an unknown scale,
        which can only be correlated.
    name, license, tissue
        Text for the card; by default name and license of the object.

    Returns
    -------
    The model. Its fingerprint is a hash of weights, code and simple attributes; of a function, also of the arrays,
    modules and functions that it uses from outside. Predictions are reused if it is the same, so set an attribute
    `fingerprint` on the object or function if its predictions depend on anything else.

    Raises
    ------
    TypeError
        If the object has none of these forms, or returns no numbers.
    ValueError
        If it returns arrays of another length, no names are known, the side of a tile is unknown, or its weights cannot
        be hashed.
    KeyError
        If the encoder is not registered, or the predictor does not return one of the `genes`.

    Examples
    --------
    >>> import deepspot as ds
    >>> def redness(tiles):
    ...     return tiles[..., :1].mean(axis=(1, 2)) / 255
    >>> model = ds.models.adapt(redness, genes=["RED"], tile_um=55, input_px=32)
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.tl.predict(sdata, model)
    >>> sdata.tables["deepspot_spots"].shape
    (12, 1)
    """
    has_predict = hasattr(predictor, "predict")
    if isinstance(predictor, type) or not (has_predict or callable(predictor)):
        raise InputTypeError(
            f"{predictor!r} is no predictor: it needs `predict(features)` or `predict(images)`, or to be a function of "
            "tiles. Construct the object before it is adapted."
        )
    scale = SCALES[scale].text if scale in SCALES else scale
    stated = getattr(predictor, "name", None) or getattr(predictor, "__name__", None) or type(predictor).__name__
    label = check_text(str(stated) if name is None else name, "name")
    text: dict[str, Any] = {
        "name": label,
        "license": license or _license_of(predictor),
        "tissue": tissue,
        "scale": scale,
    }
    if isinstance(genes, str):
        raise InputTypeError(f"`genes` must be a list of names, got the text {genes!r}. Write [{genes!r}].")
    if genes is not None:
        genes = [check_text(gene, "genes") for gene in genes]
        if not genes or len(set(genes)) < len(genes):
            raise InputError("`genes` must name at least one gene, and each of them once.")
    if has_predict and (encoder is not None or any(hasattr(predictor, part) for part in OF_FEATURES)):
        return _of_features(predictor, encoder, genes, tile_um, pitch_um, text)
    if encoder is not None:
        raise InputError(f"{label} is a function of tiles. Leave `encoder` out.")
    return _of_tiles(predictor, genes, tile_um, pitch_um, check_count(input_px, "input_px"), text)


def _of_features(
    predictor: Any,
    encoder: str | Encoder | EncoderCard | None,
    genes: Sequence[str] | None,
    tile_um: float | None,
    pitch_um: float | None,
    text: dict[str, Any],
) -> AdaptedModel:
    from deepspot import encoders
    from deepspot.encoders._registry import card_named, registered_name

    ready = None
    if encoder is None:
        named = getattr(predictor, "features_model_name", None)
        if named is None:
            raise InputError(f"{text['name']} does not name the encoder of its features. Pass it as `encoder=`.")
        encoder = registered_name(str(named))
    elif not isinstance(encoder, EncoderCard) and (not isinstance(encoder, str) or encoder.startswith(PREFIX)):
        ready = encoders.get(encoder)
    # An encoder of the registry is loaded when it embeds.
    card = encoder if isinstance(encoder, EncoderCard) else card_named(encoder) if isinstance(encoder, str) else None
    card = card if ready is None else ready.card
    if card is None:
        raise MissingKeyError(
            f"Encoder {encoder!r} of {text['name']} is not registered. Pass the encoder as `encoder=`, or for features "
            f"that are made elsewhere its card: `ds.encoders.EncoderCard(name={encoder!r}, dim=…)`."
        )
    if tile_um is None and card.mpp is not None:
        tile_um = card.read_px * card.mpp
    coords = bool(getattr(predictor, "needs_coords", False))
    found = genes_of_features(predictor, card.dim, coords=coords, name=text["name"])
    made = Card(
        genes=_kept(genes, found, text["name"]),
        dim=card.dim,
        geometry=_geometry(tile_um, pitch_um, card.read_px, text["name"]),
        encoder=card,
        encoder_fingerprint="" if ready is None else ready.fingerprint,
        preset=ADAPTED,
        **text,
    )
    return AdaptedModel(predictor, made, outputs=None, encoder=ready)


def _of_tiles(
    predictor: Any,
    genes: Sequence[str] | None,
    tile_um: float | None,
    pitch_um: float | None,
    input_px: int,
    text: dict[str, Any],
) -> AdaptedModel:
    transform = None
    if hasattr(predictor, "predict"):
        transform = predictor.get_transform() if hasattr(predictor, "get_transform") else None
        input_px = inferred_preprocessing(transform).get("input_px", input_px)
    if genes is None or hasattr(predictor, "predict"):
        move(predictor, "cpu")
        genes = _kept(genes, genes_of_tiles(predictor, transform, input_px, text["name"]), text["name"])
    chosen = list(genes)
    card = EncoderCard(
        name=valid_name(f"{text['name']}_outputs"),
        dim=len(chosen),
        input_px=input_px,
        license=text["license"],
        note="The embedding of a tile are its predicted genes.",
    )
    outputs = TilePrediction(predictor, card, chosen, transform)
    made = Card(
        genes=chosen,
        dim=len(chosen),
        geometry=_geometry(tile_um, pitch_um, input_px, text["name"]),
        encoder=card,
        encoder_fingerprint=outputs.fingerprint,
        preset=ADAPTED,
        **text,
    )
    return AdaptedModel(predictor, made, outputs=outputs, encoder=None)


def _kept(genes: Sequence[str] | None, found: list[str], name: str) -> list[str]:
    if genes is None:
        return found
    if missing := [gene for gene in genes if gene not in found]:
        raise MissingKeyError(
            f"{name} does not predict {len(missing)} of {len(genes)} `genes`, first {missing[0]!r}. It has genes like "
            f"{found[:3]}."
        )
    return list(genes)


def _geometry(tile_um: float | None, pitch_um: float | None, input_px: int, name: str) -> Geometry:
    if tile_um is None:
        raise InputError(f"The side of the tiles of {name} is unknown. Pass `tile_um=`, the µm that a tile shows.")
    side = check_positive(tile_um, "tile_um")
    pitch = side if pitch_um is None else check_positive(pitch_um, "pitch_um")
    # Neighbors are not used. Without a layout, another pitch is no reason for a warning.
    rule = NeighborRule(reach=RINGS * pitch, pitch_um=pitch)
    return Geometry(tile=TileGeometry(tile_um=side, input_px=input_px), neighbors=rule)


def _license_of(predictor: Any) -> str:
    known = getattr(predictor, "license", None) or UNKNOWN
    return known if isinstance(known, str) else ", ".join(map(str, known))
