"""A trained model as LazySlide takes it: features of the tiles of a slide become genes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from deepspot._core.device import choose_device
from deepspot._core.keys import valid_name
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot._spatial.boxes import MIN_TILE_PX, tile_px
from deepspot._spatial.neighbors import find_neighbors

from ._confidence.ood import MANY_STRANGE
from ._fitted import FittedModel

if TYPE_CHECKING:
    from deepspot._spatial.geometry import Geometry
    from deepspot.encoders import Encoder

    from ._bundle.card import ModelCard

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
        True: all tiles have to come at once, as some are the neighbours of others.
    """

    model: FittedModel
    mpp: float
    encoder: Any = None
    device: Any = None
    whole_slide: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        check_positive(self.mpp, "mpp")
        if tile_px(self._tile_um, self.mpp) < MIN_TILE_PX:
            raise ValueError(
                f"The slide is too coarse: at {self.mpp:g} µm per pixel a tile of {self._tile_um:g} µm has fewer than "
                f"{MIN_TILE_PX} px. Take the full-resolution slide, and as `mpp` what its finest level has."
            )

    @property
    def name(self) -> str:
        """Name of the model, and first half of the name of the table that LazySlide makes."""
        return valid_name(self.card.name)

    @property
    def card(self) -> ModelCard:
        """Card of the model."""
        return self.model.card

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels of the slide's finest level."""
        return self._grid * max(1, round(tile_px(self._tile_um, self.mpp) / self._grid))

    @property
    def stride_px(self) -> int:
        """Distance between tiles, in these pixels, that puts them as far apart as the spots of the training were."""
        if self._geometry.neighbors.kind == "box":
            raise ValueError(
                f"Model {self.card.name!r} counts its neighbours in steps of an array of spots, and its card does not "
                "say how far apart these were. Take what you know: spots of Visium are 100 µm apart, "
                "`stride_px=round(100 / mpp)`."
            )
        return round(self.model.spacing_um / self.mpp)

    @property
    def width(self) -> int:
        """Length of the features of a tile: of the whole tile, and after it of its sub-spots, row by row."""
        return self.card.dim * (1 + self._grid**2 if self._uses("subspots") else 1)

    @property
    def needs_coords(self) -> bool:
        """Whether origins of the tiles are needed: to find neighbours."""
        return self._uses("neighbors")

    @property
    def features_model_name(self) -> str:
        """Name of the image model whose features it takes."""
        parts = "tokens" if self._tokens else "subspots" if self._uses("subspots") else "spot"
        return valid_name(f"{self.model.encoder_card.name}_{parts}")

    @cached_property
    def image_model(self) -> TileEncoder:
        """What makes the features in LazySlide, its ``ImageModelProtocol``. Loads the encoder."""
        return TileEncoder(
            self.model.get_encoder(self.encoder), self.features_model_name, self.tile_px, self._grid,
            self._uses("subspots"), f"{self._tile_um:g} µm at {self.mpp:g} µm per pixel", self._tokens,
        )  # fmt: skip

    def get_transform(self) -> None:
        """Nothing: it takes features."""
        return

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
            neighbours.

        Returns
        -------
        Log-expression (n,) of every gene in float32, not below 0.

        Raises
        ------
        ValueError
            If features or coordinates have another shape or are not finite, or the model counts neighbours in steps of
            an array and the tiles are not laid in squares.
        """
        features = np.asarray(features, dtype=np.float32)
        n, dim = len(features), self.card.dim
        if features.shape != (n, self.width):
            raise ValueError(
                f"The features have shape {features.shape}, model {self.card.name!r} takes {self._contents()}. Make "
                "them with `zs.tl.feature_extraction(wsi, predictor.image_model)`."
            )
        neighbors = csr_matrix((n, n), dtype=bool)
        if self.needs_coords:
            origins, rule = _finite(coords, (n, 2), "coords"), self._geometry.neighbors
            neighbors = find_neighbors(origins * self.mpp, rule, _steps(origins) if rule.kind == "box" else None)
        parts = features[:, dim:].reshape(n, self._grid**2, dim) if self._uses("subspots") else None
        bags = Bags(_finite(features, features.shape, "features")[:, :dim], parts, neighbors)
        self._warn_if_strange(bags)
        expression = np.maximum(self.model.predict(bags, device=self.device), 0)
        return dict(zip(self.card.genes, expression.T, strict=True))

    @property
    def _geometry(self) -> Geometry:
        return self.model.geometry

    @property
    def _grid(self) -> int:
        return self._geometry.tile.grid

    @property
    def _tile_um(self) -> float:
        return self._geometry.tile.tile_um

    @property
    def _tokens(self) -> bool:
        return self._uses("subspots") and self._geometry.tile.subspots == "tokens"

    def _uses(self, part: str) -> bool:
        return part in self.card.network.context

    def _contents(self) -> str:
        encoder, dim = self.model.encoder_card.name, self.card.dim
        if not self._uses("subspots"):
            return f"{dim:,} columns: a tile as {encoder!r} embeds it"
        return (
            f"{self.width:,} columns: a tile as {encoder!r} embeds it ({dim:,}), and after it its {self._grid} × "
            f"{self._grid} sub-spots"
        )

    def _warn_if_strange(self, bags: Bags) -> None:
        strange = float((self.model.ood_score(bags.spot) > 1).mean())
        if strange > MANY_STRANGE:
            logger.warning(
                "%.0f %% of the tiles are unlike the spots that the model learnt from: its predictions for them are "
                "not to be trusted.", 100 * strange,
            )  # fmt: skip


def _finite(array: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    if array is None:
        raise ValueError(f"`{name}` is missing: the model finds the neighbours of a tile by the origins of all tiles.")
    found = np.asarray(array)
    if found.shape != shape:
        raise ValueError(f"`{name}` must be of shape {shape}, got {found.shape}.")
    if not np.isfinite(found).all():
        raise ValueError(f"`{name}` holds values that are not finite.")
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
        raise ValueError(
            "The model counts neighbours in steps of a square array, but these tiles are not laid in squares. Lay them "
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
    name
        First half of the name of the table that LazySlide makes.
    side, grid
        Pixels along a tile, and sub-spots.
    subspots
        Whether to embed the sub-spots.
    size
        What the side is in µm, in words.
    tokens
        Whether sub-spots are made in one pass with their tile.
    """

    model: Encoder
    name: str
    side: int
    grid: int
    subspots: bool
    size: str
    tokens: bool = False

    def get_transform(self) -> Callable[[np.ndarray], np.ndarray]:
        """Pixels as they are, after a check of their number; the encoder has its own preprocessing."""
        return partial(_check_tile, side=self.side, size=self.size)

    def to(self, device: Any) -> TileEncoder:
        """Move to a device (None chooses one)."""
        self.model.to(device)
        return self

    def try_compile(self, **options: Any) -> None:
        """Nothing: the encoder is the one that the model knows, and stays as it is."""

    def encode_image(self, image: Any) -> np.ndarray:
        """Embed tiles (n, side, side, 3) in uint8 as float32 (n, dim), or (n, (1 + grid²) · dim) with sub-spots."""
        from deepspot.encoders._encode import encode_spots

        tiles = np.asarray(image.cpu() if hasattr(image, "cpu") else image)
        if tiles.ndim != 4:
            raise ValueError(f"`image` must be of shape (n, {self.side}, {self.side}, 3), got {tiles.shape}.")
        for tile in tiles[:1]:  # all of a batch are alike
            _check_tile(tile, side=self.side, size=self.size)
        n = len(tiles)
        spot, parts = encode_spots(
            [(np.arange(n), tiles)], n, self.model, grid=self.grid, subspots=self.subspots,
            batch_size=settings.batch_size, tokens=self.tokens,
        )  # fmt: skip
        return spot if parts is None else np.concatenate([spot, parts.reshape(n, -1)], axis=1, dtype=np.float32)


def _check_tile(tile: np.ndarray, *, side: int, size: str) -> np.ndarray:
    if tile.dtype != np.uint8 or tile.shape != (side, side, 3):
        raise ValueError(
            f"A tile is {tile.dtype} of shape {tile.shape}, the model takes uint8 of shape ({side}, {side}, 3), that "
            f"is {size}. Lay tiles with `zs.pp.tile_tissues(wsi, predictor.tile_px)`, without `mpp=`, and extract "
            "features without `transform=`."
        )
    return tile
