"""Predict genes in LazySlide with a trained model, from features of the tiles of a slide."""

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

from ._confidence.ood import MANY_OOD
from ._fitted import FittedModel
from ._model import clip_expression, warn_of_impossible

if TYPE_CHECKING:
    from deepspot.encoders import Encoder


# Multiple of the distance to the nearest tile, between one step along an axis and one diagonal step.
NEAR = 1.2
# Minimum share of the nearest tiles along an axis: it is 1 in a square grid and 1/3 in a hexagonal one.
MOSTLY = 0.8


@dataclass(eq=False)
class TilePredictor:
    """Predict genes of the tiles of a slide in LazySlide; see :meth:`deepspot.models.DeepSpot.on_tiles`.

    This class implements LazySlide's ``FeaturePredictionModelProtocol``.

    Attributes
    ----------
    model
        The fitted model.
    mpp
        Resolution of the finest level of the slide, in µm per pixel.
    encoder
        Encoder of the model, if it is not in the registry.
    device
        Device of the computation. LazySlide sets it with `to`.
    whole_slide
        Always True: all tiles must be passed in one call, because tiles are neighbors of each other.
    name
        Name of the model, and first part of the name of the table that LazySlide creates.
    tile_px
        Side of a tile in pixels of the finest level of the slide.
    subspots
        Whether the features of a tile include those of its sub-spots.
    needs_coords
        Whether the origins of the tiles are needed, to find neighbors.
    width
        Number of features of a tile: those of the tile, then those of its sub-spots in row-major order.
    features_model_name
        Name of the image model that computes the features.
    """

    model: FittedModel
    mpp: float
    encoder: Any = None
    device: Any = None
    whole_slide: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        card, tile = self.model.card, self.model.geometry.tile
        if "subspots" in card.network.context and tile.subspots == "nuclei":
            raise InputError(
                f"Model {card.name!r} has the nuclei of a spot as sub-spots, and tiles of LazySlide have no nuclei. "
                "Predict with `ds.tl.predict`, or use a model whose sub-spots are parts of the tile."
            )
        if tile.stain is not None:
            raise InputError(
                f"Model {card.name!r} normalizes the stains of a slide, which it cannot see from tiles of LazySlide. "
                "Predict with `ds.tl.predict`."
            )
        side = tile_px(tile.tile_um, check_positive(self.mpp, "mpp"))
        if side < MIN_TILE_PX:
            raise InputError(
                f"The slide is too coarse: at {self.mpp:g} µm per pixel a tile of {tile.tile_um:g} µm has fewer than "
                f"{MIN_TILE_PX} px. Use the full-resolution slide, and pass the `mpp` of its finest level."
            )
        self.name, self.tile_px = valid_name(card.name), tile.grid * max(1, round(side / tile.grid))
        self.subspots, self.needs_coords = (part in card.network.context for part in ("subspots", "neighbors"))
        self.width = card.dim * (1 + tile.grid**2 if self.subspots else 1)
        self.tokens = self.subspots and tile.subspots == "tokens"
        parts = "tokens" if self.tokens else "subspots" if self.subspots else "spot"
        self.features_model_name = valid_name(f"{self.model.encoder_card.name}_{parts}")

    @property
    def stride_px(self) -> int:
        """Distance between tiles in pixels of the finest level that equals the pitch of the training spots."""
        if self.model.geometry.neighbors.pitch_um is None:
            raise InputError(
                f"Model {self.model.card.name!r} counts neighbors in steps of an array of spots, and its card does not "
                "contain the pitch of that array. Use the known pitch; for Visium it is 100 µm: "
                "`stride_px=round(100 / mpp)`."
            )
        return round(self.model.pitch_um / self.mpp)

    @cached_property
    def image_model(self) -> TileEncoder:
        """Image model that computes the features in LazySlide. Loads the encoder."""
        return TileEncoder(self.model.get_encoder(self.encoder), self)

    def get_transform(self) -> None:
        """Return None, because the input is features."""

    def to(self, device: Any) -> TilePredictor:
        """Move to a device (None chooses one)."""
        self.device = choose_device(device)
        return self

    def try_compile(self, **options: Any) -> None:
        """Do nothing, because the network is small."""

    def predict(self, features: Any, coords: Any = None) -> dict[str, np.ndarray]:
        """Predict the genes of all tiles of a slide, like :func:`deepspot.tl.predict`.

        Parameters
        ----------
        features
            Features (n, :attr:`width`), computed with :attr:`image_model`.
        coords
            Origins (x, y) of the tiles in pixels of the finest level, (n, 2); not needed for models without neighbors.

        Returns
        -------
        Log-expression (n,) of each gene in float32, not below 0.

        Raises
        ------
        ValueError
            If features or coordinates have another shape or are not finite, or if the model counts neighbors in
            steps of an array and the tiles do not form a square grid.
        """
        card, geometry = self.model.card, self.model.geometry
        features = np.asarray(features, dtype=np.float32)
        n, dim, grid = len(features), card.dim, geometry.tile.grid
        if features.shape != (n, self.width):
            parts = f" ({dim:,}), followed by its {grid} × {grid} sub-spots" if self.subspots else ""
            raise InputError(
                f"The features have shape {features.shape}, but model {card.name!r} needs {self.width:,} columns: the "
                f"embedding of a tile by {self.model.encoder_card.name!r}{parts}. Compute them with "
                "`zs.tl.feature_extraction(wsi, predictor.image_model)`."
            )
        neighbors = csr_matrix((n, n), dtype=bool)
        if self.needs_coords:
            origins, rule = _finite(coords, (n, 2), "coords"), geometry.neighbors
            neighbors = find_neighbors(origins * self.mpp, rule, _steps(origins) if rule.kind == "box" else None)
        subspots = features[:, dim:].reshape(n, grid**2, dim) if self.subspots else None
        bags = Bags(_finite(features, features.shape, "features")[:, :dim], subspots, neighbors)
        ood = float((self.model.ood_score(bags.spot) > 1).mean())
        if ood > MANY_OOD:
            logger.warning(
                "%.0f %% of the tiles are out-of-distribution: they differ from the training spots, so their "
                "predictions are not reliable.",
                100 * ood,
            )
        expression, above = clip_expression(self.model, self.model.predict(bags, device=self.device))
        warn_of_impossible(above, expression.size)
        return dict(zip(card.genes, expression.T, strict=True))


def _finite(array: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Convert to an array; raise if it is missing, has another shape or values that are not finite."""
    if array is None:
        raise InputError(f"`{name}` is missing. The model needs the origins of all tiles to find neighbors.")
    array = np.asarray(array)
    if array.shape != shape:
        raise InputError(f"`{name}` must be of shape {shape}, got {array.shape}.")
    if not np.isfinite(array).all():
        raise InputError(f"`{name}` contains values that are not finite.")
    return array


def _steps(origins: np.ndarray) -> np.ndarray:
    """Return the position of tiles in a square array (n, 2). Tissues may have grids that are shifted by less."""
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
            "The model counts neighbors in steps of a square array, but these tiles do not form a square grid. Create "
            "tiles with `zs.pp.tile_tissues`, or predict with `ds.tl.predict`, which uses the array of the spots."
        )
    step = nearest[np.abs(nearest / step - 1) < NEAR - 1].mean()
    return np.floor((origins - origins[0]) / step + 0.5).astype(np.int64)


@dataclass(eq=False)
class TileEncoder:
    """Embed tiles and their sub-spots in LazySlide, like :func:`deepspot.pp.embed`.

    This class implements LazySlide's ``ImageModelProtocol``.

    Attributes
    ----------
    model
        The encoder.
    predictor
        Predictor that uses the features.
    name
        First part of the name of the table that LazySlide creates.
    """

    model: Encoder
    predictor: TilePredictor

    @property
    def name(self) -> str:
        return self.predictor.features_model_name

    def get_transform(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that checks dtype and shape of a tile. The encoder does the preprocessing."""
        predictor = self.predictor
        size = f"{predictor.model.geometry.tile.tile_um:g} µm at {predictor.mpp:g} µm per pixel"
        return partial(_check_tile, side=predictor.tile_px, size=size)  # picklable, for worker processes

    def to(self, device: Any) -> TileEncoder:
        """Move to a device (None chooses one)."""
        self.model.to(device)
        return self

    def try_compile(self, **options: Any) -> None:
        """Do nothing, because the encoder must not change."""

    def encode_image(self, image: Any) -> np.ndarray:
        """Embed tiles (n, side, side, 3) in uint8 as float32 (n, dim), or (n, (1 + grid²) · dim) with sub-spots."""
        from deepspot.encoders._encode import encode_spots

        predictor, tiles = self.predictor, np.asarray(image.cpu() if hasattr(image, "cpu") else image)
        if tiles.ndim != 4:
            side = predictor.tile_px
            raise InputError(f"`image` must be of shape (n, {side}, {side}, 3), got {tiles.shape}.")
        for tile in tiles[:1]:  # all tiles of a batch have one shape
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
    """Return the tile unchanged; raise if its dtype or shape differs from that of training."""
    if tile.dtype != np.uint8 or tile.shape != (side, side, 3):
        raise InputError(
            f"A tile is {tile.dtype} of shape {tile.shape}, but the model needs uint8 of shape ({side}, {side}, 3), "
            f"that is {size}. Create tiles with `zs.pp.tile_tissues(wsi, predictor.tile_px)` without `mpp=`, and "
            "extract features without `transform=`."
        )
    return tile
