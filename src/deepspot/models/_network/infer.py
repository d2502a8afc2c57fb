from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deepspot._core.device import choose_device
from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded

from .network import Network

# Spots that go through the network at once: as many as 1,024 take 100 MB more, and hardly less time.
ROWS = 256


@torch.inference_mode()
def infer(
    network: Network, bags: Bags, device: str | None, *, rows: np.ndarray | None = None, count: int | None = None
) -> np.ndarray:
    """Standardised genes (n, genes) of spots; φ of a spot tile serves the spot and all its neighbours."""
    where = choose_device(device)
    network = network.to(where).eval()
    rows = np.arange(len(bags)) if rows is None else rows

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(where).float()

    if {"spot", "neighbors"} & set(network.config.context):
        spot = torch.cat([network.represent(tensor(bags.spot[at : at + ROWS])) for at in range(0, len(bags), ROWS)])
    near = torch.as_tensor(padded(bags.neighbors[rows])).to(where)
    out = []
    for at in range(0, len(rows), ROWS):
        some, around = rows[at : at + ROWS], near[at : at + ROWS]
        pooled = []
        for part in network.config.context:
            if part == "spot":
                pooled.append(spot[some])
            elif part == "subspots" and bags.subspots is not None:
                pooled.append(network.pool_subspots(network.represent(tensor(bags.subspots[some])), count))
            elif part == "neighbors":
                pooled.append(network.pool_neighbors(spot[around.clamp(min=0)], (around >= 0).float()))
        out.append(network.head(torch.cat(pooled, dim=1)).cpu().numpy())
    network.cpu()
    return np.concatenate(out)


def infer_members(
    members: Sequence[Network],
    bags: Bags,
    device: str | None,
    *,
    rows: np.ndarray | None = None,
    count: int | None = None,
) -> np.ndarray:
    """Mean of the standardised genes (n, genes) that networks predict.

    Parameters
    ----------
    members
        The networks.
    bags
        Embeddings of spots.
    device
        Where to compute.
    rows
        Which spots (n,); by default all.
    count
        Sub-spots that a sum counts as.
    """
    total = infer(members[0], bags, device, rows=rows, count=count)
    for member in members[1:]:  # one at a time: of thousands of genes, each is as large as the result
        total += infer(member, bags, device, rows=rows, count=count)
    total /= len(members)
    return total
