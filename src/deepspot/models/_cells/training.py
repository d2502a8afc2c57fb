"""Training of the networks of cells, and their batches in prediction. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from deepspot._features.bags import Bags
from deepspot._stats.metrics import mean_r
from deepspot.models._network.network import BagDataset

from .network import CellNetwork

# Spots per batch in prediction.
ROWS = 256


def train_network(
    network: CellNetwork,
    data: BagDataset,
    rows: np.ndarray,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    spots_per_step: int,
    device: torch.device,
    held: np.ndarray | None = None,
    patience: int = 0,
) -> list[float]:
    """Train a network by AdamW on the `rows`, and leave it on the CPU, for evaluation.

    With rows `held`, return their r after each epoch: the mean over genes within slides. Training then ends when it has
    not risen for `patience` epochs.
    """
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    scores: list[float] = []
    for _ in range(epochs):
        network.train()
        for part in torch.from_numpy(rows)[torch.randperm(len(rows))].split(spots_per_step):
            batch = _to(data.__getitems__(part.tolist()), device)
            optimizer.zero_grad()
            network.loss(network(batch), batch).backward()
            optimizer.step()
        if held is not None:
            scores.append(_score(network, data, held, device))
            if len(scores) - int(np.argmax(scores)) > patience:
                break
    network.cpu().eval()
    return scores


@torch.inference_mode()
def _score(network: CellNetwork, data: BagDataset, held: np.ndarray, device: torch.device) -> float:
    """Return the mean r over the genes within the slides of held-out rows."""
    network.eval()
    parts = [data.__getitems__(part.tolist()) for part in torch.from_numpy(held).split(ROWS)]
    predicted = torch.cat([network(_to(batch, device)).cpu() for batch in parts]).numpy()
    measured = torch.cat([batch["target"].masked_fill(batch["mask"] == 0, torch.nan) for batch in parts]).numpy()
    return mean_r(predicted, measured, torch.cat([batch["slide"] for batch in parts]).numpy())


def batches(
    network: CellNetwork, bags: Bags, context: Sequence[str], rows: np.ndarray, device: torch.device
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield batches of the `rows` on a device, and φ of all spot tiles (n, width), which is computed once."""
    data = BagDataset(bags, tuple(context))
    network.to(device).eval()
    tiles = torch.cat([network.represent(part.to(device)) for part in data.spot.split(ROWS)])
    for part in torch.from_numpy(rows).split(ROWS):
        near = data.neighbors[part]
        batch = {"spot": part, "neighbors": near.clamp(min=0), "real": (near >= 0).float()}
        if data.subspots is not None:
            batch["subspots"] = data.subspots[part].float()
        if data.present is not None:
            batch["present"] = data.present[part].float()
        yield _to(batch, device), tiles


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: values.to(device) for name, values in batch.items()}
