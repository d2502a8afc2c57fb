from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.validate import check_count, check_positive
from deepspot._features.bags import Bags
from deepspot.models._inputs import Scaler

from .base import Baseline, fill_unknown, seeded

if TYPE_CHECKING:
    from torch import nn

QUERIES = 1024


@dataclass(eq=False, kw_only=True)
class BLEEP(Baseline):
    """BLEEP: contrastive embedding of image and expression, with prediction from the nearest training spots.

    The embedding of the spot tile and its expression are projected to a shared space: linear to 256, GELU, linear,
    dropout 0.1, residual, layer normalization. The projections minimize a symmetric cross-entropy with soft targets, by
    AdamW with weight decay 1e-3 in batches of 512. The prediction is the mean expression of the k training spots whose
    projected expression has the highest cosine similarity with the projected image.

    Parameters
    ----------
    k
        Number of training spots in a prediction, at most all. The paper's pipeline tried 10, 50, 100 and 200.
    temperature
        Temperature τ of the loss; 2 in the paper's pipeline.
    lr
        Learning rate.
    epochs
        Number of epochs.
    seed
        Random seed; the same seed gives the same weights on the same machine. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.

    Attributes
    ----------
    image_projection
        The trained torch module that projects embeddings to the shared space.
    keys, expression
        (spots, 256) projections and (spots, genes) expression of the training spots, without repetitions.

    References
    ----------
    Xie et al., NeurIPS 2023, who also train the image network; here it is frozen, as in the DeepSpot paper. The loss
    uses the mean of a gene where it was not measured; the prediction uses only spots where it was.

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
    k: int = 50
    temperature: float = 1.0
    lr: float = 1e-3
    epochs: int = 150
    seed: int | None = None
    device: str | None = None
    image_projection: nn.Module = field(init=False, repr=False)
    keys: np.ndarray = field(init=False, repr=False)
    expression: np.ndarray = field(init=False, repr=False)

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        import torch

        from deepspot._core.compute import choose_device

        from .bleep_network import train_projections

        check_count(self.k, "k")
        check_positive(self.temperature, "temperature")
        device, known = choose_device(self.device), torch.from_numpy(fill_unknown(targets[rows]))
        spots = torch.as_tensor(bags.spot[rows], dtype=torch.float32)
        with seeded(self._seed, device):
            self.image_projection, genes = train_projections(
                spots, known, temperature=self.temperature, lr=self.lr, epochs=self.epochs, device=device
            )
        once = np.unique(rows, return_index=True)[1]  # a repeated training spot counts once in a prediction
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
    """Return the mean (n, genes) of the `nearest` (n, k) spots, over those in which a gene was measured."""
    from scipy.sparse import csr_matrix

    (n, k), known = nearest.shape, np.isfinite(expression)
    choose = csr_matrix((np.ones(n * k, np.float32), nearest.ravel(), np.arange(0, n * k + 1, k)), (n, len(expression)))
    total, count = choose @ np.where(known, expression, 0), choose @ known.astype(np.float32)
    everywhere = np.tile(Scaler.fit(expression).mean, (n, 1))  # where no nearest spot has the gene
    return np.divide(total, count, out=everywhere, where=count > 0)
