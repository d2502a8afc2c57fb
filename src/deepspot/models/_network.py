from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._config import NetworkConfig
from ._median import median


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
        if len(self.phi) == 1:
            return self.dropout(self.phi[0](tiles)).relu()
        weight, bias = (torch.cat([phi.get_parameter(name) for phi in self.phi]) for name in ("weight", "bias"))
        members = F.linear(tiles, weight, bias).unflatten(-1, (len(self.phi), -1))
        members = self.dropout(members).relu()
        return median(members) if self.config.phi_average == "median" else members.mean(-2)

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
        # One by one: side by side they are one product, but thousands of genes make that a copy of all weights a step.
        total = self.rho[0](self.dropout(pooled).relu())
        for rho in self.rho[1:]:
            total = total + rho(self.dropout(pooled).relu())
        return self.output_dropout(total / len(self.rho))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Standardised genes (n, genes) of a batch of bags.

        Parameters
        ----------
        batch
            ``tiles`` (t, d), each once; which of them are a ``spot`` (n,) and its ``neighbors`` (n, k), of which those
            that are ``real`` (n, k) count; ``subspots`` (n, s, d). As far as used.
        """
        pooled = []
        tiles = batch["tiles"]
        if self.config.context != ("subspots",):
            tiles = self.represent(tiles)
        for part in self.config.context:
            if part == "subspots":
                pooled.append(self.pool_subspots(self.represent(batch[part])))
            elif part == "neighbors":
                pooled.append(self.pool_neighbors(F.embedding(batch[part], tiles), batch["real"]))
            else:
                pooled.append(F.embedding(batch[part], tiles))
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
