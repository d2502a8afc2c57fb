from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deepspot._bags import Bags
from deepspot._device import choose_device
from deepspot._neighbors import padded

from ._network import Network

# Spots whose sub-spots go through φ at once: as many as 1,024 take 100 MB more, and hardly less time.
ROWS = 256


@torch.inference_mode()
def infer(network: Network, bags: Bags, device: str | None, rows: int, count: int | None = None) -> np.ndarray:
    """Standardised genes (n, genes) of all spots; φ of a spot tile serves the spot and all its neighbours."""
    where = choose_device(device)
    network = network.to(where).eval()
    chunks = [slice(at, at + rows) for at in range(0, len(bags), rows)]

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(where).float()

    spot = torch.cat([network.represent(tensor(bags.spot[chunk])) for chunk in chunks])
    index = torch.as_tensor(padded(bags.neighbors)).to(where)
    out = []
    for chunk in chunks:
        pooled = []
        for part in network.config.context:
            if part == "spot":
                pooled.append(spot[chunk])
            elif part == "subspots" and bags.subspots is not None:
                pooled.append(network.pool_subspots(network.represent(tensor(bags.subspots[chunk])), count))
            elif part == "neighbors":
                near = index[chunk]
                pooled.append(network.pool_neighbors(spot[near.clamp(min=0)], (near >= 0).float()))
        out.append(network.head(torch.cat(pooled, dim=1)).cpu().numpy())
    network.cpu()
    return np.concatenate(out)


def infer_members(
    members: Sequence[Network], bags: Bags, device: str | None, rows: int = ROWS, count: int | None = None
) -> np.ndarray:
    """Mean of the standardised genes (n, genes) that networks predict; a sum counts as over `count` sub-spots."""
    total = infer(members[0], bags, device, rows, count)
    for member in members[1:]:  # one at a time: of thousands of genes, each is as large as the result
        total += infer(member, bags, device, rows, count)
    total /= len(members)
    return total
