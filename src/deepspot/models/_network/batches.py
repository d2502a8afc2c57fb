from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from deepspot._features.bags import Bags
from deepspot._spatial.neighbors import padded


class BagDataset(Dataset):
    """Spots with their three sets, gathered a batch at a time by tensor indexing.

    Parameters
    ----------
    bags
        Embeddings and neighbours of the spots.
    context
        Which sets to gather.
    targets
        (n, genes) standardised expression, NaN where a slide did not measure a gene; None for prediction.
    rows
        The spots that count; the others serve as neighbours only.
    slides
        (n,) number of the slide of every spot.
    """

    def __init__(
        self,
        bags: Bags,
        context: tuple[str, ...],
        targets: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
    ) -> None:
        self.context = context
        self.rows = torch.arange(len(bags)) if rows is None else torch.as_tensor(rows, dtype=torch.long)
        self.spot = torch.as_tensor(bags.spot, dtype=torch.float32)
        self.subspots = torch.as_tensor(bags.subspots) if "subspots" in context and bags.subspots is not None else None
        self.neighbors = torch.as_tensor(padded(bags.neighbors)) if "neighbors" in context else None
        self.slides = None if slides is None else torch.as_tensor(slides)
        self.targets = None if targets is None else torch.as_tensor(targets, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """One batch: what a DataLoader asks for instead of single spots."""
        rows = self.rows[torch.as_tensor(indices)]
        batch = self._tiles(rows)
        if self.subspots is not None:
            batch["subspots"] = self.subspots[rows].float()
        if self.slides is not None:
            batch["slide"] = self.slides[rows]
        if self.targets is not None:
            target = self.targets[rows]
            batch["mask"] = torch.isfinite(target).float()
            batch["target"] = target.nan_to_num(0.0)
        return batch

    def _tiles(self, rows: Tensor) -> dict[str, Tensor]:
        """Embeddings of all spot tiles that a batch shows, each once however many spots it is a neighbour of."""
        if self.neighbors is None:
            used, spot = rows.unique(return_inverse=True)
            return {"tiles": self.spot[used], "spot": spot}
        index = self.neighbors[rows]
        real = index >= 0
        shown = torch.cat([rows.unsqueeze(1), torch.where(real, index, rows.unsqueeze(1))], dim=1)
        used, which = shown.unique(return_inverse=True)
        return {
            "tiles": self.spot[used], "spot": which[:, 0], "neighbors": which[:, 1:], "real": real.float(),
        }  # fmt: skip


def keep(batch: Any) -> Any:
    """Collate nothing: the batch is complete."""
    return batch
