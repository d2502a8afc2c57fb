from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot.models._inputs import Scaler

from .base import Baseline, fill_unknown, seeded

if TYPE_CHECKING:
    from torch import nn

QUERIES = 1024


class BLEEP(Baseline):
    """BLEEP: image and expression in a shared space, where an image asks its nearest training spots.

    The embedding of the spot tile and its expression go through a projection each: linear to 256, GELU, linear,
    dropout 0.1, residual, layer normalization. Both learn by a symmetric cross-entropy with soft targets, by AdamW
    with weight decay 1e-3 in batches of 512. A prediction is the mean expression of the k training spots whose
    projected expression has the highest cosine with the projected image.

    Parameters
    ----------
    k
        How many training spots are asked; all where there are fewer. The paper's pipeline tried 10, 50, 100 and 200.
    temperature
        τ of the loss; the paper's pipeline has 2.
    lr
        Learning rate.
    epochs
        Passes over the training spots.
    seed
        Same seed, same weights on the same machine.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.

    Attributes
    ----------
    image_projection
        The trained torch module that takes embeddings to the shared space.
    keys, expression
        (spots, 256) projections and (spots, genes) expression of the training spots, each there once.

    References
    ----------
    Xie et al., NeurIPS 2023. There the image network learns too; here it is frozen, as in the DeepSpot paper. Where a
    gene was not measured the loss sees its mean, and only spots that know it count in a prediction.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.BLEEP(k=10, epochs=5).fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    _state = "keys"
    image_projection: nn.Module
    keys: np.ndarray
    expression: np.ndarray

    def __init__(
        self,
        *,
        k: int = 50,
        temperature: float = 1.0,
        lr: float = 1e-3,
        epochs: int = 150,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.lr = lr
        self.epochs = epochs
        self.seed = seed
        self.device = device

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        import torch

        from deepspot._core.compute import choose_device

        from .bleep_network import train_projections

        check_positive(self.k, "k")
        check_positive(self.temperature, "temperature")
        device, known = choose_device(self.device), torch.from_numpy(fill_unknown(targets[rows]))
        spots = torch.as_tensor(bags.spot[rows], dtype=torch.float32)
        with seeded(self.seed, device):
            self.image_projection, genes = train_projections(
                spots, known, temperature=self.temperature, lr=self.lr, epochs=self.epochs, device=device
            )
        once = np.unique(rows, return_index=True)[1]  # a spot that is learned from twice still answers once
        with torch.inference_mode():
            self.keys = genes(known[once]).numpy()
        self.expression = targets[rows[once]].astype(np.float32)

    def _predict(self, bags: Bags) -> np.ndarray:
        import torch
        from torch.nn import functional as F

        keys = F.normalize(torch.from_numpy(self.keys), dim=1)
        nearest = []
        with torch.inference_mode():
            for part in torch.as_tensor(bags.spot, dtype=torch.float32).split(QUERIES):
                likeness = F.normalize(self.image_projection(part), dim=1) @ keys.T
                nearest.append(likeness.topk(min(self.k, len(keys)), dim=1).indices)
        return _mean_of(self.expression, torch.cat(nearest).numpy())


def _mean_of(expression: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Mean (n, genes) over the k spots that know a gene, of those that `nearest` (n, k) numbers."""
    from scipy.sparse import csr_matrix

    (n, k), known = nearest.shape, np.isfinite(expression)
    choose = csr_matrix((np.ones(n * k, np.float32), nearest.ravel(), np.arange(0, n * k + 1, k)), (n, len(expression)))
    total, count = choose @ np.where(known, expression, 0), choose @ known.astype(np.float32)
    everywhere = np.tile(Scaler.fit(expression).mean, (n, 1))  # where none of the k spots knows a gene
    return np.divide(total, count, out=everywhere, where=count > 0)
