"""The network of the paper: what it takes, what it makes of that, and inference with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from deepspot._core.compute import choose_device
from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded

from .config import NetworkConfig


class Network(nn.Module):
    """φ shared by spot, sub-spots and neighbors, then ρ on what they are pooled to (section 4.2 of the paper)."""

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
        """A trained network with collapsed ρ, of its weights."""
        genes, dim = len(state["rho.0.bias"]), state["phi.0.weight"].shape[1]
        with torch.device("meta"):  # takes neither memory nor random numbers
            network = cls(config.model_copy(update={"n_rho": 1}), dim, genes)
        network.load_state_dict(state, assign=True)
        return network.eval()

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
        """Maximum of φ over the real neighbors: (n, k, width) and (n, k) to (n, width).

        φ is never negative, so a masked neighbor counts as zero without changing the maximum, and a spot without
        neighbors pools to zero.
        """
        if represented.shape[1] == 0:
            return represented.new_zeros(len(represented), represented.shape[2])
        return (represented * real.unsqueeze(-1)).amax(1)

    def pool(self, tiles: Tensor, batch: dict[str, Tensor], count: int | None = None) -> Tensor:
        """Sets of a batch side by side (n, sets · width), from φ of the tiles (t, width) that it shows."""
        pooled = []
        for part in self.config.context:
            if part == "subspots":
                pooled.append(self.pool_subspots(self.represent(batch[part]), count))
            elif part == "neighbors":
                pooled.append(self.pool_neighbors(F.embedding(batch[part], tiles), batch["real"]))
            else:
                pooled.append(F.embedding(batch[part], tiles))
        return torch.cat(pooled, dim=1)

    def head(self, pooled: Tensor) -> Tensor:
        """Mean of the ρ ensemble: (n, sets · width) to standardized genes (n, genes)."""
        # One by one: side by side they are one product, but thousands of genes make that a copy of all weights a step.
        total = self.rho[0](self.dropout(pooled).relu())
        for rho in self.rho[1:]:
            total = total + rho(self.dropout(pooled).relu())
        return self.output_dropout(total / len(self.rho))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Standardized genes (n, genes) of a batch of :class:`BagDataset`."""
        tiles = batch["tiles"]
        if self.config.context != ("subspots",):
            tiles = self.represent(tiles)
        return self.head(self.pool(tiles, batch))

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


# Numbers of one member that are compared at once on a CPU: they and their rivals stay in the cache.
AT_ONCE = 2**15


def median(members: Tensor) -> Tensor:
    """Median of (..., m, width) over its members (..., width); of an even number the lower one in the middle.

    As :func:`torch.median`, which takes seven times as long on a CPU (a training step of the published preset a quarter
    longer, inference twice as long), but for the gradient where members agree: they share it.
    """
    return _Median.apply(members)


class _Median(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, members: Tensor) -> Tensor:
        flat, m = members.reshape(-1, *members.shape[-2:]), members.shape[-2]
        rows = max(1, AT_ONCE // flat.shape[-1] if flat.device.type == "cpu" else len(flat))
        middle = []
        for part in flat.split(rows):
            ranked = list(part.unbind(1))
            for step in range(m):  # odd-even sort, of whole arrays
                for low in range(step % 2, m - 1, 2):
                    pair = ranked[low : low + 2]
                    ranked[low : low + 2] = torch.minimum(*pair), torch.maximum(*pair)
            middle.append(ranked[(m - 1) // 2])
        found = torch.cat(middle).reshape(*members.shape[:-2], members.shape[-1])
        ctx.save_for_backward(members, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        members, found = ctx.saved_tensors
        chosen = (members == found.unsqueeze(-2)).to(found.dtype)
        return chosen * (gradients[0] / chosen.sum(-2)).unsqueeze(-2)


class BagDataset(Dataset):
    """Spots with their three sets, gathered a batch at a time by tensor indexing.

    A batch has ``tiles`` (t, d), each once however many spots it is a neighbor of; which of them are a ``spot`` (n,)
    and its ``neighbors`` (n, k), of which those that are ``real`` (n, k) count; ``subspots`` (n, s, d) if used; and of
    standardized `targets` (n, genes), NaN where a slide did not measure a gene, ``target``, ``mask`` and ``slide``.
    """

    def __init__(
        self,
        bags: Bags,
        context: tuple[str, ...],
        targets: np.ndarray | None = None,
        slides: np.ndarray | None = None,
    ) -> None:
        near = padded(bags.neighbors) if "neighbors" in context else np.empty((len(bags), 0), dtype=np.int64)
        self.neighbors = torch.as_tensor(near)
        self.spot = torch.as_tensor(bags.spot, dtype=torch.float32)
        self.subspots = torch.as_tensor(bags.subspots) if "subspots" in context and bags.subspots is not None else None
        self.targets = None if targets is None else torch.as_tensor(targets, dtype=torch.float32)
        self.slides = None if slides is None else torch.as_tensor(slides)

    def __len__(self) -> int:
        return len(self.spot)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """One batch: what a DataLoader asks for instead of single spots."""
        spot = torch.as_tensor(rows).unsqueeze(1)
        near = self.neighbors[rows]
        used, which = torch.cat([spot, torch.where(near >= 0, near, spot)], dim=1).unique(return_inverse=True)
        batch = {"tiles": self.spot[used], "spot": which[:, 0], "neighbors": which[:, 1:], "real": (near >= 0).float()}
        if self.subspots is not None:
            batch["subspots"] = self.subspots[rows].float()
        if self.targets is not None:
            target = self.targets[rows]
            batch |= {"mask": torch.isfinite(target).float(), "target": target.nan_to_num(0.0)}
        if self.slides is not None:
            batch["slide"] = self.slides[rows]
        return batch


# Spots that go through the network at once: as many as 1,024 take 100 MB more, and hardly less time.
ROWS = 256


@torch.inference_mode()
def infer(
    members: Sequence[Network],
    bags: Bags,
    device: str | None,
    *,
    rows: np.ndarray | None = None,
    count: int | None = None,
) -> np.ndarray:
    """Mean of the standardized genes (n, genes) that networks predict of all spots, or of the `rows`.

    φ of a spot tile serves the spot and all its neighbors. A sum over sub-spots is scaled to as many as `count`.
    """
    where = choose_device(device)
    rows = np.arange(len(bags)) if rows is None else rows
    near = torch.as_tensor(padded(bags.neighbors[rows])).to(where)
    total = np.zeros((len(rows), members[0].n_genes), dtype=np.float32)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(where).float()

    for network in members:
        network.to(where).eval()
        context, tiles = network.config.context, torch.empty(0)
        if context != ("subspots",):
            blocks = range(0, len(bags), ROWS)
            tiles = torch.cat([network.represent(tensor(bags.spot[at : at + ROWS])) for at in blocks])
        for at in range(0, len(rows), ROWS):
            some, around = rows[at : at + ROWS], near[at : at + ROWS]
            batch = {"spot": torch.as_tensor(some).to(where)}
            batch |= {"neighbors": around.clamp(min=0), "real": (around >= 0).float()}
            if "subspots" in context and bags.subspots is not None:
                batch["subspots"] = tensor(bags.subspots[some])
            total[at : at + ROWS] += network.head(network.pool(tiles, batch, count)).cpu().numpy()
        network.cpu()
    total /= len(members)
    return total
