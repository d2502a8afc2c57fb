"""Network and losses of DeepCell. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepspot.models._inputs import Scaler
from deepspot.models._network.config import NetworkConfig
from deepspot.models._network.network import Network

from .network import CellNetwork, mean_squared_error

Aggregation = Literal["max", "mean", "sum"]
EPS = 1e-8


class DeepCellNetwork(Network, CellNetwork):
    """Network of DeepSpot on cells and their neighbors, whose output are genes standardized by `scaler`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        dim: int,
        scaler: Scaler,
        *,
        aggregation: Aggregation = "max",
        loss: str = "mse",
        scale: nn.Module | None = None,
    ) -> None:
        super().__init__(config, dim, len(scaler.mean))
        self.dim, self.aggregation, self.loss_name = dim, aggregation, loss
        self.scale = scale or nn.Identity()
        self.register_buffer("mean", torch.from_numpy(scaler.mean))
        self.register_buffer("std", torch.from_numpy(scaler.std))

    def represent(self, tiles: Tensor) -> Tensor:
        """Return φ (..., width) of cells (..., dim)."""
        return super().represent(self.scale(tiles))

    def pool_neighbors(self, represented: Tensor, real: Tensor) -> Tensor:
        """Return maximum, mean or sum (n, width) of φ (n, k, width) over the real (n, k) neighbors; 0 without any."""
        if self.aggregation == "max":
            return super().pool_neighbors(represented, real)
        total = (represented * real.unsqueeze(-1)).sum(1)
        return total if self.aggregation == "sum" else total / real.sum(1, keepdim=True).clamp(min=1)

    def forward(self, batch: dict[str, Tensor], tiles: Tensor | None = None) -> Tensor:
        """Predict log-expression (b, genes) of the cells."""
        tiles = self.represent(batch["tiles"]) if tiles is None else tiles
        return self.head(self.pool(tiles, batch)) * self.std + self.mean

    def loss(self, predicted: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of a prediction (b, genes), on standardized genes."""
        scores, target = ((values - self.mean) / self.std for values in (predicted, batch["target"]))
        return LOSSES[self.loss_name](scores, target, batch["mask"])


def _average(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _l1(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return _average((predicted - target).abs(), mask)


def _huber(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return _average(F.huber_loss(predicted, target, reduction="none"), mask)


def _cosine(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Over the cells of a batch, as published; not over genes."""
    return (1 - F.cosine_similarity(predicted * mask, target * mask, dim=0, eps=EPS)).mean()


def _pearson(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    x, y = ((values - (values * mask).sum(0) / mask.sum(0).clamp(min=1)) * mask for values in (predicted, target))
    spread = (x.square().sum(0) + EPS).sqrt() * (y.square().sum(0) + EPS).sqrt()
    return (1 - (x * y).sum(0) / spread).mean()


def _poisson(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Exponentiate the prediction twice, as published: it grows beyond all bounds for large values."""
    return _average(F.poisson_nll_loss(predicted.exp(), target, log_input=True, reduction="none"), mask)


def _added(first: Callable[..., Tensor], second: Callable[..., Tensor], weight: float = 1.0) -> Callable[..., Tensor]:
    return lambda *values: first(*values) + weight * second(*values)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": mean_squared_error,
    "l1": _l1,
    "huber": _huber,
    "cos": _cosine,
    "mse_cos": _added(mean_squared_error, _cosine),
    "l1_cos": _added(_l1, _cosine),
    "huber_cos": _added(_huber, _cosine),
    "pearson": _pearson,
    # The published code adds the cosine here, in spite of the name.
    "mse_pearson": _added(mean_squared_error, _cosine, 0.1),
    "poisson": _poisson,
}
