from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from deepspot.errors import InputError

from ._card import EncoderCard


@runtime_checkable
class Encoder(Protocol):
    """What :func:`deepspot.pp.embed` needs of an image encoder."""

    @property
    def card(self) -> EncoderCard:
        """Describes the encoder."""
        ...

    @property
    def fingerprint(self) -> str:
        """Content hash of its weights: features of encoders that differ here are never mixed."""
        ...

    def to(self, device: Any) -> Encoder:
        """Move to a device (None chooses one)."""
        ...

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles (n, height, width, 3) in uint8 as float32 (n, dim)."""
        ...


@runtime_checkable
class ResizingEncoder(Encoder, Protocol):
    """What resizes tiles in a thread while it encodes others."""

    def resize_ahead(self, tiles: np.ndarray) -> np.ndarray:
        """Resize tiles (n, height, width, 3) in uint8: `encode` gives the same of these as of the tiles."""
        ...


@runtime_checkable
class PartsEncoder(Encoder, Protocol):
    """What ``subspots="tokens"`` needs besides: a tile and its parts from one pass."""

    def encode_parts(self, tiles: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
        """Embed tiles as `encode` does, (n, dim), and their grid × grid parts, row by row, (n, grid², dim)."""
        ...


LARGEST = float(np.finfo(np.float16).max)


def check_tiles(tiles: np.ndarray) -> None:
    """Raise if tiles are not RGB in uint8."""
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[-1] != 3:
        raise InputError(f"`tiles` must be uint8 of shape (n, height, width, 3), got {tiles.dtype} {tiles.shape}.")


def check_embedded(embedded: np.ndarray, encoder: Encoder, expected: tuple[int, ...]) -> None:
    """Raise if embeddings are not of so many tiles and parts as the encoder's card says, or no numbers."""
    name = encoder.card.name
    if embedded.shape != expected:
        raise InputError(
            f"Encoder {name!r} gave embeddings of shape {embedded.shape} for {expected[0]} tiles, its card says "
            f"{expected}. Correct `dim` in the card, or let it return one vector per tile."
        )
    if not np.isfinite(embedded).all() or np.abs(embedded).max() > LARGEST:
        raise InputError(
            f"Encoder {name!r} gave values that are not finite or above {LARGEST:,.0f}, which sub-spots are stored "
            "with in half precision. Check its weights and preprocessing."
        )
