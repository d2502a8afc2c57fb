from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator


class EncoderCard(BaseModel):
    """What one has to know of an image encoder to feed it and to trust it.

    Attributes
    ----------
    name
        Name in the registry, and first half of the name of its feature tables.
    dim
        Length of the embedding of one tile.
    input_px
        Side of the square that the encoder takes, in pixels; tiles are resized to it.
    mean, std
        Per-channel normalisation of RGB in 0 to 1.
    mpp
        Resolution that the encoder was trained at, in µm per pixel; None if it never saw histology.
    licence
        Licence of the weights.
    gated
        Whether access to the weights has to be asked for.
    source
        Where the weights come from.
    note
        What a user should know before trusting it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dim: int = Field(gt=0)
    input_px: int = Field(gt=0, default=224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mpp: float | None = None
    licence: str = "unknown"
    gated: bool = False
    source: str = "user"
    note: str = ""

    @field_validator("std")
    @classmethod
    def _std_above_zero(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("every value of `std` must be above 0")
        return std
