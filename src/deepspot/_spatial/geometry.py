from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

SubspotsFrom = Literal["tiles", "tokens"]


class TileGeometry(BaseModel):
    """The physical size of what the encoder sees: fixed by the model, enforced on every slide.

    Attributes
    ----------
    tile_um
        Side of the spot tile in µm of tissue.
    input_px
        Side in pixels to which every tile is resized for the encoder.
    grid
        Sub-spots along one side of a spot (3 gives 3 × 3).
    subspots
        What sub-spots are embedded from: ``"tiles"`` of their own, or the ``"tokens"`` that the encoder makes of the
        spot tile, averaged over the part that shows the sub-spot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile_um: float = Field(gt=0)
    input_px: int = Field(gt=0)
    grid: int = Field(default=3, gt=0)
    subspots: SubspotsFrom = "tiles"

    @model_serializer(mode="wrap")
    def _as_ever(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the default out, which there was no other way to do once: cards and fingerprints stay as they were."""
        written: dict[str, Any] = write(self)
        if self.subspots == "tiles":
            written.pop("subspots", None)
        return written


class NeighborRule(BaseModel):
    """Which spots count as the neighbors of a spot.

    Attributes
    ----------
    kind
        ``"radius"``: distance in µm; ``"box"``: steps in the spot array in both directions, as in the paper.
    reach
        The radius in µm, or the number of array steps.
    cap
        At most so many neighbors, the nearest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["radius", "box"] = "radius"
    reach: float = Field(gt=0)
    cap: int = Field(default=8, gt=0)


class Geometry(BaseModel):
    """The geometry contract of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: TileGeometry
    neighbors: NeighborRule
