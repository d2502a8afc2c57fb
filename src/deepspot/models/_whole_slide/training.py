"""Training of a network on whole slides. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .part import SlideNetwork, SlidePart


def train_network(
    network: SlideNetwork,
    parts: Sequence[SlidePart],
    *,
    lr: float,
    epochs: int,
    device: torch.device,
    batch: int | None,
    decay: float,
    schedule: tuple[int, float] | None,
) -> None:
    """Train a network by Adam, one step for every part of a slide, or for every `batch` spots of it.

    `decay` is that of the weights, `schedule` a number of epochs and the factor of the learning rate after them. The
    network is left on the CPU, for evaluation.
    """
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=decay)
    steps, factor = schedule or (epochs, 1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, steps, factor)
    for _ in range(epochs):
        for number in torch.randperm(len(parts)).tolist():
            part = parts[number].to(device)
            for step in [part] if batch is None else batches(part, batch):
                optimizer.zero_grad()
                network.loss(step).backward()
                optimizer.step()
        scheduler.step()
    network.cpu().eval()


def batches(part: SlidePart, size: int) -> list[SlidePart]:
    """Divide the spots with known targets at random; each batch has the other spots as context."""
    known = (part.weights > 0).any(dim=1).nonzero().flatten()
    order = known[torch.randperm(len(known), device=known.device)]
    return [
        replace(part, rows=rows, targets=part.targets[rows], weights=part.weights[rows]) for rows in order.split(size)
    ]
