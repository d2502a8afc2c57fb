"""Image encoders: card, protocol, and checks of input and output."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from deepspot.errors import InputError


class EncoderCard(BaseModel):
    """What one has to know of an image encoder to feed it and to trust it.

    Attributes
    ----------
    name
        Name in the registry, and first half of the name of its feature tables.
    dim
        Length of the embedding of one tile.
    input_px
        Side of the square that the encoder takes, in pixels.
    mean, std
        Per-channel normalization of RGB in 0 to 1.
    resize_px
        Side that tiles are resized to before the central `input_px` are cut out; None resizes to `input_px`.
    interpolation
        How tiles are resized, always without aliasing.
    resize_as
        What is resized: pixels as fractions (``"float"``), or as 8-bit integers by torchvision (``"uint8"``) or by
        Pillow (``"pillow"``). These round, and cut off what bicubic interpolation overshoots.
    pooling
        How the tokens of a transformer become one vector: the class token, the class token with the mean of the patch
        tokens after it (registers take no part), or however the network itself does it (``"pooled"``).
    architecture
        Name of the network in timm, torchvision or transformers.
    mpp
        Resolution that the encoder was trained at, in µm per pixel; None if it never saw histology.
    license
        License of the weights.
    gated
        Whether access to the weights has to be asked for.
    source
        Where the weights come from.
    url
        Page of the weights, where access is asked for.
    remote_code
        Why the encoder cannot be loaded without running code that comes with its weights; empty if it can.
    note
        What a user should know before trusting it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dim: int = Field(gt=0)
    input_px: int = Field(gt=0, default=224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    resize_px: int | None = Field(gt=0, default=None)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    resize_as: Literal["float", "uint8", "pillow"] = "float"
    pooling: Literal["cls", "cls+mean", "pooled"] = "pooled"
    architecture: str = ""
    mpp: float | None = None
    license: str = Field(default="unknown", validation_alias=AliasChoices("license", "licence"))
    gated: bool = False
    source: str = "user"
    url: str = ""
    remote_code: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _crop_fits(self) -> EncoderCard:
        if self.resize_px is not None and self.resize_px < self.input_px:
            raise InputError(f"`resize_px` ({self.resize_px}) must not be below `input_px` ({self.input_px})")
        return self

    @property
    def read_px(self) -> int:
        """Side in pixels at which a tile has to be read, of which the network may see the middle only."""
        return self.resize_px or self.input_px

    def preprocessing(self) -> dict[str, object]:
        """All that a tile goes through before the network; what was the rule before cards said so is left out."""
        always = self.model_dump(mode="json", include={"dim", "input_px", "mean", "std"})
        newer = {"resize_px", "interpolation", "resize_as"}
        return always | self.model_dump(mode="json", include=newer, exclude_defaults=True)


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
