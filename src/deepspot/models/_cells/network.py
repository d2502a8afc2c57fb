"""Parts of the networks of cells. Imports torch."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepspot.models._inputs import CLIP, Scaler


class Standardize(nn.Module):
    """Standardization of embeddings (..., d), which are clipped to three standard deviations."""

    mean: Tensor
    std: Tensor

    def __init__(self, scaler: Scaler) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(scaler.mean))
        self.register_buffer("std", torch.from_numpy(scaler.std))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the standardized embeddings."""
        return ((embeddings - self.mean) / self.std).clamp(-CLIP, CLIP)


class CellNetwork(nn.Module):
    """Network on batches of :class:`deepspot.models._network.network.BagDataset`.

    `dim` is the length of an embedding. `tiles` (t, width) are the :meth:`represent` of the spot tiles that the batch
    refers to, by default those in the batch.
    """

    dim: int

    def represent(self, tiles: Tensor) -> Tensor:
        """Return φ (t, width) of spot tiles (t, d)."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor], tiles: Tensor | None = None) -> Tensor:
        """Predict log-expression (b, genes) of the spots."""
        raise NotImplementedError

    def loss(self, predicted: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of a prediction (b, genes) on the measured values of a batch: the mean squared error."""
        return mean_squared_error(predicted, batch["target"], batch["mask"])

    def collapse(self) -> Self:
        """Replace what can be replaced by fewer weights with the same predictions, and return the network."""
        return self


def mean_squared_error(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error (n, genes) over the values in the `mask`."""
    return ((predicted - target).square() * mask).sum() / mask.sum().clamp(min=1)


def packed_cells(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the embeddings (m, d) of the cells of a batch that are present, and the number (m,) of their spot."""
    cells = batch["subspots"]
    if "present" not in batch:
        owner = torch.arange(len(cells), device=cells.device).repeat_interleave(cells.shape[1])
        return cells.flatten(0, 1), owner
    present = batch["present"] > 0
    return cells[present], present.nonzero()[:, 0]


def own_and_around(tiles: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return φ of the spot tile and the mean of φ over its neighbors, 0 without any (b, 2 · width)."""
    real = batch["real"].unsqueeze(-1).to(tiles.dtype)
    around = (F.embedding(batch["neighbors"], tiles) * real).sum(1) / real.sum(1).clamp(min=1)
    return torch.cat([F.embedding(batch["spot"], tiles), around], dim=1)


def sum_by_spot(values: Tensor, owner: Tensor, n: int) -> Tensor:
    """Return the sum (n, ...) of values (m, ...) over the cells of every spot."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, owner, values)
