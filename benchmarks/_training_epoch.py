"""A training epoch the published way: 1 + 9 + k tiles of every spot through ten φ."""

from __future__ import annotations

import numpy as np
import torch
from _per_spot import Published
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded


class Spots(Dataset):
    """One spot at a time, with all of its tiles."""

    def __init__(self, bags: Bags, targets: np.ndarray) -> None:
        self.spot, self.targets = torch.from_numpy(bags.spot), torch.from_numpy(targets)
        self.subspots, self.near = torch.from_numpy(bags.subspots), torch.from_numpy(padded(bags.neighbors))

    def __len__(self) -> int:
        return len(self.spot)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        near = self.near[row]
        tiles = self.spot[near.clamp(min=0)]
        return self.spot[row], self.subspots[row].float(), tiles, (near >= 0).float(), self.targets[row]


def train(
    bags: Bags, targets: np.ndarray, epochs: int, batch_size: int, device: torch.device, seed: int = 0
) -> Published:
    """Train the published network on standardized genes."""
    torch.manual_seed(seed)
    network = Published(bags.dim, targets.shape[1]).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-6)
    loader = DataLoader(Spots(bags, targets), batch_size=batch_size, shuffle=True)
    for _ in range(epochs):
        for *tiles, target in loader:
            optimizer.zero_grad()
            loss = F.mse_loss(network(*(part.to(device) for part in tiles)), target.to(device))
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.inference_mode()
def predict(network: Published, bags: Bags, device: torch.device) -> np.ndarray:
    """Standardized genes (n, genes)."""
    data = Spots(bags, np.zeros((len(bags), 1), dtype=np.float32))
    made = [network(*(part.to(device) for part in tiles)).cpu() for *tiles, _ in DataLoader(data, batch_size=256)]
    return torch.cat(made).numpy()
