"""How ST-Net is trained and applied, on embeddings or on tiles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 32
MOMENTUM = 0.9


def train_head(
    network: nn.Module,
    inputs: Tensor,
    targets: np.ndarray,
    rows: np.ndarray,
    *,
    lr: float,
    epochs: int,
    device: torch.device,
    turned: bool,
) -> nn.Module:
    """Train a network by SGD on the squared error, summed over the spots of a batch, mean over known genes.

    Parameters
    ----------
    network
        Maps a batch of inputs to expression.
    inputs
        (n, …) embeddings, or tiles (n, 3, px, px) in uint8.
    targets
        (n, genes) expression; NaN does not count.
    rows
        Spots to learn from.
    lr, epochs, device
        Learning rate, passes over the data, where to compute.
    turned
        Whether inputs are tiles, to be flipped and turned by quarters at random.

    Returns
    -------
    The network on the CPU, in evaluation mode.
    """
    known = torch.from_numpy(np.isfinite(targets)).float()
    expression = torch.from_numpy(np.nan_to_num(targets).astype(np.float32))
    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=MOMENTUM)
    for _ in range(epochs):
        for batch in _batches(torch.from_numpy(rows)):
            values, mask = inputs[batch].to(device), known[batch].to(device)
            if turned:
                values = turn_each(values, torch.randint(N_SYMMETRIES, (len(batch),)))
            error = (network(values.float()) - expression[batch].to(device)).square() * mask
            optimizer.zero_grad()
            (error.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum().backward()
            optimizer.step()
    return network.cpu().eval()


def apply_head(network: nn.Module, inputs: Tensor, *, device: torch.device, turned: bool) -> np.ndarray:
    """Predict expression (n, genes) in float32; of tiles the mean over their eight symmetries."""
    network.to(device)
    numbers = range(N_SYMMETRIES if turned else 1)
    with torch.inference_mode():
        parts = [
            torch.stack([network(turn(batch, i) if turned else batch) for i in numbers]).mean(dim=0).cpu()
            for batch in (part.to(device).float() for part in inputs.split(BATCH))
        ]
    network.cpu()
    return torch.cat(parts).numpy()


def _batches(rows: Tensor) -> list[Tensor]:
    batches = list(rows[torch.randperm(len(rows))].split(BATCH))
    # Batch normalisation has nothing to learn from a single spot.
    return batches if len(batches) == 1 or len(batches[-1]) > 1 else batches[:-1]


N_SYMMETRIES = 8


def turn(images: Tensor, number: int) -> Tensor:
    """Images (..., side, side) in one of the eight positions; 0 leaves them as they are."""
    turned = torch.rot90(images, number % 4, (-2, -1))
    return turned.flip(-1) if number >= 4 else turned


def turn_each(images: Tensor, numbers: Tensor) -> Tensor:
    """Every image (n, channels, side, side) in a position of its own."""
    return torch.stack([turn(image, int(number)) for image, number in zip(images, numbers, strict=True)])
