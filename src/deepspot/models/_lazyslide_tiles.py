"""Tiles of LazySlide as pixels, and embedded as a model of ours wants them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._settings import settings

if TYPE_CHECKING:
    from deepspot.encoders import Encoder


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
