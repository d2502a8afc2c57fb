"""Projections of BLEEP and their training. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 256
DROPOUT = 0.1
BATCH = 512
WEIGHT_DECAY = 1e-3


class Projection(nn.Module):
    """Projection of vectors (n, d) to the shared space (n, 256)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, WIDTH)
        self.second = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.Dropout(DROPOUT))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the projected vectors."""
        projected = self.first(vectors)
        return self.norm(projected + self.second(projected))


def contrastive_loss(images: Tensor, expression: Tensor, temperature: float) -> Tensor:
    """Return the symmetric cross-entropy of projections (n, 256), with targets from their own similarities."""
    logits = expression @ images.T / temperature
    targets = ((images @ images.T + expression @ expression.T) / (2 * temperature)).softmax(dim=1)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets.T)) / 2


def train_projections(
    images: Tensor, expression: Tensor, *, temperature: float, lr: float, epochs: int, device: torch.device
) -> tuple[Projection, Projection]:
    """Train the projections of images (n, d) and expression (n, genes); return them on the CPU, for evaluation."""
    image, gene = (Projection(values.shape[1]).to(device).train() for values in (images, expression))
    optimizer = torch.optim.AdamW([*image.parameters(), *gene.parameters()], lr=lr, weight_decay=WEIGHT_DECAY)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            projected = image(images[rows].to(device)), gene(expression[rows].to(device))
            optimizer.zero_grad()
            contrastive_loss(*projected, temperature).backward()
            optimizer.step()
    return image.cpu().eval(), gene.cpu().eval()
