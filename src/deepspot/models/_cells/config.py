"""Architecture of the networks of cells, as it is stored in the card of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deepspot.models._network.config import Context

CellSystem = Literal["cell_sum", "deepspot2cell", "deepcell"]


class CellNetworkConfig(BaseModel):
    """Architecture of the network of a model of cells. Fields that a system does not have keep their defaults.

    Attributes
    ----------
    system
        Name of the system in :func:`deepspot.models.cross_validate`, which is also its preset in
        :func:`deepspot.models.train`.
    width, n_ensemble, dropout, neighbors, aggregation
        Parameters of :class:`deepspot.models.CellSum`, :class:`deepspot.models.DeepSpot2Cell` or
        :class:`deepspot.models.DeepCell`.
    standardized
        Whether embeddings are standardized and clipped; those of a converted DeepCell are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: CellSystem
    width: int = Field(gt=0)
    n_ensemble: int = Field(default=1, gt=0, le=100)
    dropout: float = Field(ge=0, lt=1)
    neighbors: bool = True
    aggregation: Literal["max", "mean", "sum"] = "max"
    standardized: bool = True

    @property
    def context(self) -> tuple[Context, ...]:
        """Sets of the bags that the network uses."""
        return context_of(self.system, neighbors=self.neighbors)


def context_of(system: CellSystem, *, neighbors: bool = True) -> tuple[Context, ...]:
    """Return the sets of the bags that a system uses, in DeepCell with or without `neighbors`."""
    if system != "deepcell":
        return ("spot", "subspots", "neighbors")
    return ("spot", "neighbors") if neighbors else ("spot",)
