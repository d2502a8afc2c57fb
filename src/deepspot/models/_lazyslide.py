"""A trained model as LazySlide takes it: features of the tiles of a slide become genes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from deepspot._core.compute import choose_device
from deepspot._core.keys import valid_name
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot._spatial.geometry import MIN_TILE_PX, tile_px
from deepspot._spatial.neighbors import find_neighbors
from deepspot.errors import InputError

from ._confidence.ood import MANY_STRANGE
from ._fitted import FittedModel

if TYPE_CHECKING:
    from deepspot.encoders import Encoder


# Of the distance to the nearest tile: what is farther than one step along an axis, and nearer than one across.
NEAR = 1.2
# Share of the nearest tiles that lie along an axis: all in a square grid, a third in a hexagonal one.
MOSTLY = 0.8


@dataclass(eq=False)
class TilePredictor:
    """LazySlide's ``FeaturePredictionModelProtocol``; see :meth:`deepspot.models.DeepSpot.on_tiles`.

    Attributes
    ----------
    model
        The fitted model.
    mpp
        µm per pixel of the slide's finest level.
    encoder
        The model's encoder, where it is not in the registry.
    device
        Where to compute. LazySlide sets it by `to`, and goes on with the same object.
    whole_slide
        True: all tiles have to come at once, as some are the neighbors of others.
    name
        Name of the model, and first half of the name of the table that LazySlide makes.
    tile_px
        Side of a tile in pixels of the slide's finest level.
    subspots
        Whether the features of a tile are followed by those of its sub-spots.
    needs_coords
        Whether origins of the tiles are needed: to find neighbors.
    width
        Length of the features of a tile: of the whole tile, and after it of its sub-spots, row by row.
    features_model_name
        Name of the image model whose features it takes.
    """

    model: FittedModel
    mpp: float
    encoder: Any = None
    device: Any = None
    whole_slide: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        card, tile = self.model.card, self.model.geometry.tile
        side = tile_px(tile.tile_um, check_positive(self.mpp, "mpp"))
        if side < MIN_TILE_PX:
            raise InputError(
                f"The slide is too coarse: at {self.mpp:g} µm per pixel a tile of {tile.tile_um:g} µm has fewer than "
                f"{MIN_TILE_PX} px. Take the full-resolution slide, and as `mpp` what its finest level has."
            )
        self.name, self.tile_px = valid_name(card.name), tile.grid * max(1, round(side / tile.grid))
        self.subspots, self.needs_coords = (part in card.network.context for part in ("subspots", "neighbors"))
        self.width = card.dim * (1 + tile.grid**2 if self.subspots else 1)
        self.tokens = self.subspots and tile.subspots == "tokens"
        parts = "tokens" if self.tokens else "subspots" if self.subspots else "spot"
        self.features_model_name = valid_name(f"{self.model.encoder_card.name}_{parts}")

    @property
    def stride_px(self) -> int:
        """Distance between tiles, in these pixels, that puts them as far apart as the spots of the training were."""
        if self.model.geometry.neighbors.kind == "box":
            raise InputError(
                f"Model {self.model.card.name!r} counts its neighbors in steps of an array of spots, and its card "
                "does not say how far apart these were. Take what you know: spots of Visium are 100 µm apart, "
                "`stride_px=round(100 / mpp)`."
            )
        return round(self.model.pitch_um / self.mpp)

    @cached_property
    def image_model(self) -> TileEncoder:
        """What makes the features in LazySlide, its ``ImageModelProtocol``. Loads the encoder."""
        return TileEncoder(self.model.get_encoder(self.encoder), self)

    def get_transform(self) -> None:
        """Nothing: it takes features."""

    def to(self, device: Any) -> TilePredictor:
        """Move to a device (None chooses one)."""
        self.device = choose_device(device)
        return self

    def try_compile(self, **options: Any) -> None:
        """Nothing: embedding is what takes time, and the network after it is small."""

    def predict(self, features: Any, coords: Any = None) -> dict[str, np.ndarray]:
        """Predict the genes of all tiles of a slide, as :func:`deepspot.tl.predict` does.

        Parameters
        ----------
        features
            (n, :attr:`width`), made with :attr:`image_model`.
        coords
            (n, 2) x and y of the tiles' origins in pixels of the finest level; not needed by a model without
            neighbors.

        Returns
        -------
        Log-expression (n,) of every gene in float32, not below 0.

        Raises
        ------
        ValueError
            If features or coordinates have another shape or are not finite, or the model counts neighbors in steps of
            an array and the tiles are not laid in squares.
        """
        card, geometry = self.model.card, self.model.geometry
        features = np.asarray(features, dtype=np.float32)
        n, dim, grid = len(features), card.dim, geometry.tile.grid
        if features.shape != (n, self.width):
            parts = f" ({dim:,}), and after it its {grid} × {grid} sub-spots" if self.subspots else ""
            raise InputError(
                f"The features have shape {features.shape}, model {card.name!r} takes {self.width:,} columns: a tile "
                f"as {self.model.encoder_card.name!r} embeds it{parts}. Make them with "
                "`zs.tl.feature_extraction(wsi, predictor.image_model)`."
            )
        neighbors = csr_matrix((n, n), dtype=bool)
        if self.needs_coords:
            origins, rule = _finite(coords, (n, 2), "coords"), geometry.neighbors
            neighbors = find_neighbors(origins * self.mpp, rule, _steps(origins) if rule.kind == "box" else None)
        subspots = features[:, dim:].reshape(n, grid**2, dim) if self.subspots else None
        bags = Bags(_finite(features, features.shape, "features")[:, :dim], subspots, neighbors)
        strange = float((self.model.ood_score(bags.spot) > 1).mean())
        if strange > MANY_STRANGE:
            logger.warning(
                "%.0f %% of the tiles are unlike the spots that the model learned from: its predictions for them are "
                "not to be trusted.",
                100 * strange,
            )
        expression = np.maximum(self.model.predict(bags, device=self.device), 0)
        return dict(zip(card.genes, expression.T, strict=True))


def _finite(array: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """An array of this shape that holds numbers only."""
    if array is None:
        raise InputError(f"`{name}` is missing: the model finds the neighbors of a tile by the origins of all tiles.")
    found = np.asarray(array)
    if found.shape != shape:
        raise InputError(f"`{name}` must be of shape {shape}, got {found.shape}.")
    if not np.isfinite(found).all():
        raise InputError(f"`{name}` holds values that are not finite.")
    return found


def _steps(origins: np.ndarray) -> np.ndarray:
    """Places of tiles in a square array (n, 2): the tissues of a slide may have grids that are shifted by less."""
    from scipy.spatial import cKDTree

    if len(origins) < 2:
        return np.zeros((len(origins), 2), dtype=np.int64)
    tree = cKDTree(origins)
    nearest = tree.query(origins, k=2)[0][:, 1]
    step = np.median(nearest)
    pairs = tree.query_pairs(NEAR * step, output_type="ndarray")
    apart = np.abs(origins[pairs[:, 0]] - origins[pairs[:, 1]])
    if (apart.min(axis=1) < (NEAR - 1) * step).mean() < MOSTLY:
        raise InputError(
            "The model counts neighbors in steps of a square array, but these tiles are not laid in squares. Lay them "
            "with `zs.pp.tile_tissues`, or predict with `ds.tl.predict`, which knows the array of the spots."
        )
    step = nearest[np.abs(nearest / step - 1) < NEAR - 1].mean()
    return np.floor((origins - origins[0]) / step + 0.5).astype(np.int64)


@dataclass(eq=False)
class TileEncoder:
    """LazySlide's ``ImageModelProtocol``: embeds a tile, and its sub-spots, as :func:`deepspot.pp.embed` does.

    Attributes
    ----------
    model
        The encoder.
    predictor
        What the features are for.
    name
        First half of the name of the table that LazySlide makes.
    """

    model: Encoder
    predictor: TilePredictor

    @property
    def name(self) -> str:
        return self.predictor.features_model_name

    def get_transform(self) -> Callable[[np.ndarray], np.ndarray]:
        """Pixels as they are, after a check of their number; the encoder has its own preprocessing."""
        predictor = self.predictor
        size = f"{predictor.model.geometry.tile.tile_um:g} µm at {predictor.mpp:g} µm per pixel"
        return partial(_check_tile, side=predictor.tile_px, size=size)  # of plain values, for worker processes

    def to(self, device: Any) -> TileEncoder:
        """Move to a device (None chooses one)."""
        self.model.to(device)
        return self

    def try_compile(self, **options: Any) -> None:
        """Nothing: the encoder is the one that the model knows, and stays as it is."""

    def encode_image(self, image: Any) -> np.ndarray:
        """Embed tiles (n, side, side, 3) in uint8 as float32 (n, dim), or (n, (1 + grid²) · dim) with sub-spots."""
        from deepspot.encoders._encode import encode_spots

        predictor, tiles = self.predictor, np.asarray(image.cpu() if hasattr(image, "cpu") else image)
        if tiles.ndim != 4:
            side = predictor.tile_px
            raise InputError(f"`image` must be of shape (n, {side}, {side}, 3), got {tiles.shape}.")
        for tile in tiles[:1]:  # all of a batch are alike
            self.get_transform()(tile)
        n = len(tiles)
        spot, parts = encode_spots(
            [(np.arange(n), tiles)],
            n,
            self.model,
            grid=predictor.model.geometry.tile.grid,
            subspots=predictor.subspots,
            batch_size=settings.batch_size,
            tokens=predictor.tokens,
        )
        return spot if parts is None else np.concatenate([spot, parts.reshape(n, -1)], axis=1, dtype=np.float32)


def _check_tile(tile: np.ndarray, *, side: int, size: str) -> np.ndarray:
    """The tile as it is, if it shows as much tissue as those of the training."""
    if tile.dtype != np.uint8 or tile.shape != (side, side, 3):
        raise InputError(
            f"A tile is {tile.dtype} of shape {tile.shape}, the model takes uint8 of shape ({side}, {side}, 3), that "
            f"is {size}. Lay tiles with `zs.pp.tile_tissues(wsi, predictor.tile_px)`, without `mpp=`, and extract "
            "features without `transform=`."
        )
    return tile
