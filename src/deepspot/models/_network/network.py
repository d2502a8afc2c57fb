"""The network of the paper, its batches, and inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from deepspot._core.compute import choose_device
from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded

from .config import NetworkConfig

# Spots per pass at inference. 1,024 spots would take 100 MB more memory and nearly the same time.
ROWS = 256


class Network(nn.Module):
    """Deep-set network (section 4.2 of the paper): φ shared by spot, sub-spots and neighbors, and ρ on pooled sets."""

    def __init__(self, config: NetworkConfig, dim: int, n_genes: int) -> None:
        super().__init__()
        self.config, self.n_genes = config, n_genes
        self.phi = nn.ModuleList(nn.Linear(dim, config.width) for _ in range(config.n_phi))
        self.rho = nn.ModuleList(nn.Linear(len(config.context) * config.width, n_genes) for _ in range(config.n_rho))
        self.dropout = nn.Dropout(config.dropout)
        self.output_dropout = nn.Dropout(config.output_dropout)
        if config.init == "lecun":
            for layer in [*self.phi, *self.rho]:
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_state(cls, config: NetworkConfig, state: dict[str, Tensor]) -> Network:
        """Return a network with the weights of a trained one, whose ρ are collapsed."""
        with torch.device("meta"):  # needs neither memory nor random numbers
            network = cls(
                config.model_copy(update={"n_rho": 1}), state["phi.0.weight"].shape[1], len(state["rho.0.bias"])
            )
        network.load_state_dict(state, assign=True)
        return network.eval()

    def represent(self, tiles: Tensor) -> Tensor:
        """Return φ (..., width) of tile embeddings (..., dim). It is never negative."""
        if len(self.phi) == 1:
            return self.dropout(self.phi[0](tiles)).relu()
        weight, bias = (torch.cat([phi.get_parameter(name) for phi in self.phi]) for name in ("weight", "bias"))
        outputs = F.linear(tiles, weight, bias).unflatten(-1, (len(self.phi), -1))
        outputs = self.dropout(outputs).relu()
        return outputs.median(-2).values if self.config.phi_average == "median" else outputs.mean(-2)

    def pool_subspots(
        self, represented: Tensor, n_subspots: int | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Pool φ of sub-spots (n, s, width) to (n, width); a sum is scaled from s to `n_subspots` sub-spots.

        With `present` (n, s) only those that exist are pooled, 0 if there are none, and a sum is not scaled: their
        number is a property of the spot.
        """
        if present is not None:
            total = (represented * present.unsqueeze(-1)).sum(1)
            return total if self.config.subspot_pooling == "sum" else total / present.sum(1, keepdim=True).clamp(min=1)
        if self.config.subspot_pooling == "mean":
            return represented.mean(1)
        return represented.sum(1) * ((n_subspots or represented.shape[1]) / represented.shape[1])

    def pool_neighbors(self, represented: Tensor, real: Tensor) -> Tensor:
        """Return the maximum (n, width) of φ (n, k, width) over the real (n, k) neighbors; 0 if there are none.

        φ is never negative, so masked neighbors can count as 0.
        """
        if represented.shape[1] == 0:
            return represented.new_zeros(len(represented), represented.shape[2])
        return (represented * real.unsqueeze(-1)).amax(1)

    def pool(self, tiles: Tensor, batch: dict[str, Tensor], n_subspots: int | None = None) -> Tensor:
        """Return the concatenated pooled sets (n, sets · width) of a batch, given φ (t, width) of its tiles."""
        pooled = []
        for part in self.config.context:
            if part == "subspots":
                pooled.append(self.pool_subspots(self.represent(batch[part]), n_subspots, batch.get("present")))
            elif part == "neighbors":
                pooled.append(self.pool_neighbors(F.embedding(batch[part], tiles), batch["real"]))
            else:
                pooled.append(F.embedding(batch[part], tiles))
        return torch.cat(pooled, dim=1)

    def head(self, pooled: Tensor) -> Tensor:
        """Return the mean of ρ, standardized genes (n, genes), of the pooled sets (n, sets · width)."""
        # A single product over all ρ would copy all their weights at every step, which is slow for thousands of genes.
        total = self.rho[0](self.dropout(pooled).relu())
        for rho in self.rho[1:]:
            total = total + rho(self.dropout(pooled).relu())
        return self.output_dropout(total / len(self.rho))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return standardized genes (n, genes) of a batch of :class:`BagDataset`."""
        tiles = batch["tiles"]
        if self.config.context != ("subspots",):
            tiles = self.represent(tiles)
        return self.head(self.pool(tiles, batch))

    @torch.no_grad()
    def collapse(self) -> Self:
        """Replace the ρ by one layer with their mean weights, which gives the same predictions, and return the network.

        The input of ρ is never negative, so its ReLU has no effect and ρ is linear in evaluation mode.
        """
        first, *others = self.rho
        for name, value in first.named_parameters():
            value.copy_(torch.stack([value, *(rho.get_parameter(name) for rho in others)]).mean(0))
        self.rho = nn.ModuleList([first])
        return self


class BagDataset(Dataset):
    """Bags and targets as a data set that makes whole batches by tensor indexing.

    A batch has ``tiles`` (t, d), each tile once; the indices of ``spot`` (n,) and ``neighbors`` (n, k) among these; the
    mask ``real`` (n, k) of the neighbors; if used, ``subspots`` (n, s, d), and if their number differs the mask
    ``present`` (n, s); and with standardized `targets` (n, genes), NaN for genes that a slide did not measure,
    ``target`` and ``mask`` (n, genes), ``weight`` and ``slide`` (n,).
    """

    def __init__(
        self,
        bags: Bags,
        context: tuple[str, ...],
        targets: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        near = padded(bags.neighbors) if "neighbors" in context else np.empty((len(bags), 0), dtype=np.int64)
        self.neighbors = torch.as_tensor(near)
        self.spot = torch.as_tensor(bags.spot, dtype=torch.float32)
        self.subspots = torch.as_tensor(bags.subspots) if "subspots" in context and bags.subspots is not None else None
        self.present = None if self.subspots is None or bags.present is None else torch.as_tensor(bags.present)
        self.targets = None if targets is None else torch.as_tensor(targets, dtype=torch.float32)
        self.slides = None if slides is None else torch.as_tensor(slides)
        self.weights = torch.ones(len(bags)) if weights is None else torch.as_tensor(weights, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.spot)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """Return one batch; a DataLoader calls this instead of `__getitem__`."""
        spot = torch.as_tensor(rows).unsqueeze(1)
        near = self.neighbors[rows]
        used, index = torch.cat([spot, torch.where(near >= 0, near, spot)], dim=1).unique(return_inverse=True)
        batch = {"tiles": self.spot[used], "spot": index[:, 0], "neighbors": index[:, 1:], "real": (near >= 0).float()}
        if self.subspots is not None:
            batch["subspots"] = self.subspots[rows].float()
        if self.present is not None:
            batch["present"] = self.present[rows].float()
        if self.targets is not None:
            target = self.targets[rows]
            batch |= {
                "mask": torch.isfinite(target).float(),
                "target": target.nan_to_num(0.0),
                "weight": self.weights[rows],
            }
        if self.slides is not None:
            batch["slide"] = self.slides[rows]
        return batch


@torch.inference_mode()
def infer(
    members: Sequence[Network],
    bags: Bags,
    device: str | None,
    *,
    rows: np.ndarray | None = None,
    n_subspots: int | None = None,
) -> np.ndarray:
    """Return standardized genes (n, genes) of all spots or of the `rows`: the mean of the predictions of networks.

    φ of a spot tile is computed once for the spot and its neighbors. A sum over sub-spots is scaled to `n_subspots`.
    """
    target = choose_device(device)
    rows = np.arange(len(bags)) if rows is None else rows
    near = torch.as_tensor(padded(bags.neighbors[rows])).to(target)
    total = np.zeros((len(rows), members[0].n_genes), dtype=np.float32)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(target).float()

    for network in members:
        network.to(target).eval()
        context, tiles = network.config.context, torch.empty(0)
        if context != ("subspots",):
            starts = range(0, len(bags), ROWS)
            tiles = torch.cat([network.represent(tensor(bags.spot[start : start + ROWS])) for start in starts])
        for start in range(0, len(rows), ROWS):
            block, around = rows[start : start + ROWS], near[start : start + ROWS]
            batch = {"spot": torch.as_tensor(block).to(target)}
            batch |= {"neighbors": around.clamp(min=0), "real": (around >= 0).float()}
            if "subspots" in context and bags.subspots is not None:
                batch["subspots"] = tensor(bags.subspots[block])
                if bags.present is not None:
                    batch["present"] = tensor(bags.present[block])
            total[start : start + ROWS] += network.head(network.pool(tiles, batch, n_subspots)).cpu().numpy()
        network.cpu()
    total /= len(members)
    return total
