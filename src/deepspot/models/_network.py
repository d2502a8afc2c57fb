from __future__ import annotations

import torch
from torch import Tensor, nn

from ._config import NetworkConfig


class Network(nn.Module):
    """φ shared by spot, sub-spots and neighbours, then ρ on what they are pooled to (section 4.2 of the paper).

    Parameters
    ----------
    config
        Make-up of the network.
    dim
        Length of a tile embedding.
    n_genes
        Length of the output.
    """

    def __init__(self, config: NetworkConfig, dim: int, n_genes: int) -> None:
        super().__init__()
        self.config = config
        self.phi = nn.ModuleList(nn.Linear(dim, config.width) for _ in range(config.n_phi))
        self.rho = nn.ModuleList(nn.Linear(len(config.context) * config.width, n_genes) for _ in range(config.n_rho))
        self.dropout = nn.Dropout(config.dropout)
        self.output_dropout = nn.Dropout(config.output_dropout)
        if config.init == "lecun":
            for layer in [*self.phi, *self.rho]:
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def represent(self, tiles: Tensor) -> Tensor:
        """φ of tile embeddings (..., dim): (..., width), never negative."""
        members = torch.stack([self.dropout(phi(tiles)).relu() for phi in self.phi])
        return members.median(0).values if self.config.phi_average == "median" else members.mean(0)

    def pool_subspots(self, represented: Tensor, count: int | None = None) -> Tensor:
        """Pool φ of sub-spots (n, s, width) to (n, width); a sum is scaled up to as many as `count` of them."""
        if self.config.subspot_pooling == "mean":
            return represented.mean(1)
        return represented.sum(1) * ((count or represented.shape[1]) / represented.shape[1])

    @staticmethod
    def pool_neighbors(represented: Tensor, real: Tensor) -> Tensor:
        """Maximum of φ over the real neighbours: (n, k, width) and (n, k) to (n, width).

        φ is never negative, so a masked neighbour counts as zero without changing the maximum, and a spot without
        neighbours pools to zero.
        """
        if represented.shape[1] == 0:
            return represented.new_zeros(len(represented), represented.shape[2])
        return (represented * real.unsqueeze(-1)).amax(1)

    def head(self, pooled: Tensor) -> Tensor:
        """Mean of the ρ ensemble: (n, sets · width) to standardised genes (n, genes)."""
        members = torch.stack([rho(self.dropout(pooled).relu()) for rho in self.rho])
        return self.output_dropout(members.mean(0))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Standardised genes (n, genes) of a batch of bags.

        Parameters
        ----------
        batch
            ``spot`` (n, d), ``subspots`` (n, s, d), ``neighbors`` (n, k, d) and ``real`` (n, k), as far as used.
        """
        pooled = []
        for part in self.config.context:
            represented = self.represent(batch[part])
            if part == "subspots":
                represented = self.pool_subspots(represented)
            elif part == "neighbors":
                represented = self.pool_neighbors(represented, batch["real"])
            pooled.append(represented)
        return self.head(torch.cat(pooled, dim=1))

    @torch.no_grad()
    def collapse(self) -> Network:
        """Replace the ρ ensemble by one layer of averaged weights: the same function in evaluation, but smaller.

        ρ's ReLU does nothing to what is never negative, so ρ is linear in evaluation, and the mean of linear layers is
        linear. φ's median cannot be collapsed.
        """
        first, *others = self.rho
        for name, value in first.named_parameters():
            value.copy_(torch.stack([value, *(rho.get_parameter(name) for rho in others)]).mean(0))
        self.rho = nn.ModuleList([first])
        return self
