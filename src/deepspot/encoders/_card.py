"""Card and protocols of image encoders, and checks of their input and output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from deepspot._core.keys import is_label
from deepspot.errors import InputError

if TYPE_CHECKING:
    from deepspot._core.compute import Pending


class EncoderCard(BaseModel):
    """Describe an image encoder: its input, output, origin and license.

    Attributes
    ----------
    name
        Name in the registry, and first part of the names of its feature tables.
    dim
        Length of the embedding of one tile.
    input_px
        Side of the square input image, in pixels.
    mean, std
        Per-channel normalization of RGB in 0 to 1.
    resize_px
        Side in pixels that tiles are resized to before the central `input_px` are cropped; None resizes to `input_px`.
    interpolation
        Interpolation of the resizing, always with antialiasing.
    resize_as
        Data type that is resized: floating-point pixels (``"float"``), or 8-bit integers with torchvision
        (``"uint8"``) or Pillow (``"pillow"``). Integers are rounded, and bicubic overshoots are clipped.
    pooling
        Pooling of the tokens of a transformer: the class token (``"cls"``), the class token followed by the mean of
        the patch tokens without registers (``"cls+mean"``), or the network's own pooling (``"pooled"``).
    architecture
        Name of the network in timm, torchvision or transformers.
    mpp
        Resolution of the training images, in µm per pixel; None if the encoder was not trained on histology.
    license
        License of the weights.
    gated
        Whether access to the weights must be requested.
    source
        Origin of the weights.
    url
        Web page of the weights, where access is requested.
    remote_code
        Reason why loading the encoder would run code from its repository, which is refused; empty if it would not.
    note
        Known limitations and remarks.
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

    @model_validator(mode="after")
    def _check_text(self) -> EncoderCard:
        for text in (self.name, self.license):
            if not is_label(text):
                raise InputError(f"{text[:20]!r}… is too long for a name, or holds control characters")
        return self

    @property
    def read_px(self) -> int:
        """Side in pixels that tiles are resized to. The network may see only the center of them."""
        return self.resize_px or self.input_px

    def preprocessing(self) -> dict[str, object]:
        """Return the fields that describe the preprocessing. Newer fields are left out at their defaults."""
        # The fingerprint hashes the result: fields added later must not change it for cards that do not set them.
        fields = self.model_dump(mode="json", include={"dim", "input_px", "mean", "std"})
        added = {"resize_px", "interpolation", "resize_as"}
        return fields | self.model_dump(mode="json", include=added, exclude_defaults=True)


@runtime_checkable
class Encoder(Protocol):
    """Protocol of the image encoders that :func:`deepspot.pp.embed` accepts."""

    @property
    def card(self) -> EncoderCard:
        """Description of the encoder."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing. Features with different fingerprints are never mixed."""
        ...

    def to(self, device: Any) -> Encoder:
        """Move the encoder to a device (None selects one)."""
        ...

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles (n, height, width, 3) in uint8 as float32 (n, dim)."""
        ...


@runtime_checkable
class ResizingEncoder(Encoder, Protocol):
    """Protocol of encoders that can resize tiles in a thread while they encode others."""

    def resize_ahead(self, tiles: np.ndarray) -> np.ndarray:
        """Resize tiles (n, height, width, 3) in uint8. `encode` gives the same result for resized tiles."""
        ...


@runtime_checkable
class StartingEncoder(Encoder, Protocol):
    """Protocol of encoders that can begin a batch before they have finished another."""

    concurrent: int
    """Number of tiles, or small batches of them, that are computed at the same time; 1 if nothing is gained."""

    def start(self, tiles: np.ndarray, grid: int | None = None) -> Pending[Any]:
        """Begin `encode`, or with a `grid` `encode_parts`, whose result is that of what is returned."""
        ...


@runtime_checkable
class PartsEncoder(Encoder, Protocol):
    """Protocol of encoders that embed a tile and its parts in one pass, for ``subspots="tokens"``."""

    def encode_parts(self, tiles: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
        """Embed tiles as `encode` does, (n, dim), and their grid × grid parts in row-major order, (n, grid², dim)."""
        ...


LARGEST = float(np.finfo(np.float16).max)


def check_tiles(tiles: np.ndarray) -> None:
    """Raise if tiles are not RGB in uint8."""
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[-1] != 3:
        raise InputError(f"`tiles` must be uint8 of shape (n, height, width, 3), got {tiles.dtype} {tiles.shape}.")


def check_embedded(embedded: np.ndarray, encoder: Encoder, expected: tuple[int, ...], *, half: bool = True) -> None:
    """Raise if embeddings do not have the expected shape, are not finite, or with `half` do not fit into float16."""
    name = encoder.card.name
    if embedded.shape != expected:
        raise InputError(
            f"Encoder {name!r} returned embeddings of shape {embedded.shape} for {expected[0]} tiles, but its card "
            f"implies {expected}. Correct `dim` in the card, or return one vector per tile."
        )
    if not np.isfinite(embedded).all() or (half and np.abs(embedded).max() > LARGEST):
        raise InputError(
            f"Encoder {name!r} returned values that are not finite or exceed {LARGEST:,.0f}, the maximum of the half "
            "precision that sub-spots are stored in. Check its weights and preprocessing."
        )
