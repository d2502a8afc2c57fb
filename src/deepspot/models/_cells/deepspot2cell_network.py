"""Network of DeepSpot2Cell. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepspot.models._whole_slide.layers import output_layer

from .network import CellNetwork, own_and_around, packed_cells, sum_by_spot


class DeepSpot2CellNetwork(CellNetwork):
    """Separate ensembles of φ for cells and for spot tiles, and of ρ on the sum over the cells of a spot.

    `mean` (genes,) is the mean expression. Embeddings are first passed through `scale_of_spots` and `scale_of_cells`.
    """

    def __init__(
        self,
        dim: int,
        mean: Tensor,
        *,
        width: int,
        n_ensemble: int,
        dropout: float,
        output_dropout: float,
        scale_of_spots: nn.Module | None = None,
        scale_of_cells: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.scale_of_spots = scale_of_spots or nn.Identity()
        self.scale_of_cells = scale_of_cells or nn.Identity()

        def phi() -> nn.Module:
            first, second = nn.Linear(dim, dim), nn.Linear(dim, width)
            return nn.Sequential(first, nn.Dropout(dropout), nn.ReLU(), second, nn.Dropout(dropout), nn.ReLU())

        def rho() -> nn.Module:
            hidden, output = nn.Linear(3 * width, 3 * width), output_layer(3 * width, mean)
            return nn.Sequential(nn.Dropout(dropout), hidden, nn.ReLU(), output, nn.ReLU(), nn.Dropout(output_dropout))

        self.phi_spot = nn.ModuleList(phi() for _ in range(n_ensemble))
        self.phi_cell = nn.ModuleList(phi() for _ in range(n_ensemble))
        self.rho = nn.ModuleList(rho() for _ in range(n_ensemble))

    def represent(self, tiles: Tensor) -> Tensor:
        """Return φ (t, width) of spot tiles (t, d)."""
        return _median(self.phi_spot, self.scale_of_spots(tiles))

    def forward(self, batch: dict[str, Tensor], tiles: Tensor | None = None) -> Tensor:
        """Predict log-expression (b, genes) of the spots."""
        joined, owner = self._joined(batch, tiles)
        return self._head(sum_by_spot(joined, owner, len(batch["spot"])))

    def cells(self, batch: dict[str, Tensor], tiles: Tensor | None = None) -> Tensor:
        """Predict log-expression (m, genes) of the cells that are present, each as the only one of its spot."""
        return self._head(self._joined(batch, tiles)[0])

    def _joined(self, batch: dict[str, Tensor], tiles: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return φ of cell, spot and neighbors (m, 3 · width) of every cell, and the number (m,) of its spot."""
        cells, owner = packed_cells(batch)
        around = own_and_around(self.represent(batch["tiles"]) if tiles is None else tiles, batch)
        return torch.cat([_median(self.phi_cell, self.scale_of_cells(cells)), around[owner]], dim=1), owner

    def _head(self, joined: Tensor) -> Tensor:
        return torch.stack([rho(joined) for rho in self.rho]).mean(0)


def _median(ensemble: nn.ModuleList, embeddings: Tensor) -> Tensor:
    """Return the median over an ensemble; of an even number the lower one of the two in the middle."""
    return torch.stack([phi(embeddings) for phi in ensemble]).median(0).values
