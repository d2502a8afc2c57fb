"""Network whose spots are the sum of their cells and a background. Imports torch."""

from __future__ import annotations

from math import e, log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .network import CellNetwork, mean_squared_error, own_and_around, packed_cells, sum_by_spot

# Share of the background in the expression of a spot at the start of training.
BACKGROUND = 0.1
# The softplus of this is 1.
START = log(e - 1)


class CellSumNetwork(CellNetwork):
    """Rates of the cells of a spot and of its background, which add up to the rate of the spot.

    Both are a softplus of a linear layer, in units of what they would be if all cells of all spots were equal: the
    `mean` (genes,) of the log-expression as a rate, divided among the background and the cells. If rates are counts, a
    cell has that of the mean spot divided by `n_cells`, the mean number of cells. If they are shares of the counts of a
    spot, `n_cells` is 0, and it is divided by the number of cells of the spot itself. `std` (genes,) scales the loss.
    """

    n_cells: Tensor
    rate: Tensor
    std: Tensor

    def __init__(
        self,
        dim: int,
        mean: Tensor,
        std: Tensor,
        *,
        width: int,
        dropout: float,
        scale_of_spots: nn.Module,
        scale_of_cells: nn.Module,
        n_cells: float,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.scale_of_spots, self.scale_of_cells = scale_of_spots, scale_of_cells
        self.phi_spot, self.phi_cell = nn.Linear(dim, width), nn.Linear(dim, width)
        self.rho_background = nn.Linear(2 * width, len(mean))
        # The linear layer on [φ(cell), φ(spot), mean φ(neighbors)] in two parts: the second is computed once per spot.
        self.rho_cell = nn.Linear(width, len(mean), bias=False)
        self.rho_context = nn.Linear(2 * width, len(mean))
        for layer in (self.rho_background, self.rho_context):
            nn.init.constant_(layer.bias, START)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("n_cells", torch.tensor([n_cells], dtype=torch.float32))
        self.register_buffer("rate", mean.clamp(min=0).expm1())
        self.register_buffer("std", std)

    def represent(self, tiles: Tensor) -> Tensor:
        """Return φ (t, width) of spot tiles (t, d)."""
        return self.dropout(self.phi_spot(self.scale_of_spots(tiles))).relu()

    def rates(self, batch: dict[str, Tensor], tiles: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rates of cells (m, genes) and of backgrounds (b, genes), and the number (m,) of a cell's spot."""
        cells, owner = packed_cells(batch)
        background, around, n = self.background(batch, tiles)
        represented = self.dropout(self.phi_cell(self.scale_of_cells(cells))).relu()
        score = self.rho_cell(self.dropout(represented)) + self.rho_context(self.dropout(around))[owner]
        number = torch.where(self.n_cells == 0, n[owner], self.n_cells)
        return (1 - BACKGROUND) / number * self.rate * F.softplus(score), background, owner

    def background(self, batch: dict[str, Tensor], tiles: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rates (b, genes) of backgrounds, φ of spot and neighbors (b, 2 · width), and numbers of cells."""
        around = own_and_around(self.represent(batch["tiles"]) if tiles is None else tiles, batch)
        n = torch.bincount(packed_cells(batch)[1], minlength=len(around)).unsqueeze(1).to(around.dtype)
        share = torch.full_like(n, BACKGROUND).masked_fill((self.n_cells == 0) & (n == 0), 1.0)
        return share * self.rate * F.softplus(self.rho_background(self.dropout(around))), around, n

    def forward(self, batch: dict[str, Tensor], tiles: Tensor | None = None) -> Tensor:
        """Predict log-expression (b, genes) of the spots."""
        cells, background, owner = self.rates(batch, tiles)
        return (background + sum_by_spot(cells, owner, len(background))).log1p()

    def loss(self, predicted: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean squared error of log-expression, in units of the standard deviation of each gene."""
        return mean_squared_error(predicted / self.std, batch["target"] / self.std, batch["mask"])
