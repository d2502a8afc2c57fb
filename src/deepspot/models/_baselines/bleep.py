"""The two projections of BLEEP, and how they are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot.models._network.scaler import Scaler

from .inputs import fill_unknown, not_fitted, rows_to_learn

if TYPE_CHECKING:
    from torch import nn


QUERIES = 1024


class BLEEP:
    """BLEEP: image and expression in a shared space, where an image asks its nearest training spots.

    The embedding of the spot tile and its expression go through a projection each: linear to 256, GELU, linear,
    dropout 0.1, residual, layer normalisation. Both learn by a symmetric cross-entropy with soft targets, by AdamW
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
        self.image_projection: nn.Module | None = None
        self.keys: np.ndarray | None = None
        self.expression: np.ndarray | None = None

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
    ) -> Self:
        """Fit to measured expression.

        Parameters
        ----------
        bags
            Embeddings of n spots.
        targets
            (n, genes) log-expression; NaN where a slide did not measure a gene.
        rows
            Spots to learn from, maybe several times; by default all.
        slides, patients
            Not used.
        """
        import torch

        from deepspot._core.device import choose_device

        check_positive(self.k, "k")
        check_positive(self.temperature, "temperature")
        rows = rows_to_learn(bags, targets, rows)
        device = choose_device(self.device)
        known = torch.from_numpy(fill_unknown(targets[rows]))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            self.image_projection, genes = train_projections(
                torch.as_tensor(bags.spot[rows], dtype=torch.float32), known,
                temperature=self.temperature, lr=self.lr, epochs=self.epochs, device=device,
            )  # fmt: skip
        once = np.unique(rows, return_index=True)[1]  # a spot that is learnt from twice still answers once
        with torch.inference_mode():
            self.keys = genes(known[once]).numpy()
        self.expression = targets[rows[once]].astype(np.float32)
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        """Predict log-expression (n, genes)."""
        import torch
        from torch.nn import functional as F

        if self.image_projection is None or self.keys is None or self.expression is None:
            raise not_fitted(self)
        keys = F.normalize(torch.from_numpy(self.keys), dim=1)
        nearest = []
        with torch.inference_mode():
            for part in torch.as_tensor(bags.spot, dtype=torch.float32).split(QUERIES):
                likeness = F.normalize(self.image_projection(part), dim=1) @ keys.T
                nearest.append(likeness.topk(min(self.k, len(keys)), dim=1).indices)
        return _mean_of(self.expression, torch.cat(nearest).numpy())


def _mean_of(expression: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    from scipy.sparse import csr_matrix

    (n, k), known = nearest.shape, np.isfinite(expression)
    choose = csr_matrix((np.ones(n * k, np.float32), nearest.ravel(), np.arange(0, n * k + 1, k)), (n, len(expression)))
    total, count = choose @ np.where(known, expression, 0), choose @ known.astype(np.float32)
    everywhere = np.tile(Scaler.fit(expression).mean, (n, 1))  # where none of the k spots knows a gene
    return np.divide(total, count, out=everywhere, where=count > 0)


WIDTH = 256
DROPOUT = 0.1
BATCH = 512
WEIGHT_DECAY = 1e-3


class Projection(nn.Module):
    """Vectors (n, d) to the shared space (n, 256)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, WIDTH)
        self.second = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.Dropout(DROPOUT))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project."""
        projected = self.first(vectors)
        return self.norm(projected + self.second(projected))


def contrastive_loss(images: Tensor, expression: Tensor, temperature: float) -> Tensor:
    """Symmetric cross-entropy of two sets of projections (n, 256), whose targets are their own likenesses."""
    logits = expression @ images.T / temperature
    targets = ((images @ images.T + expression @ expression.T) / (2 * temperature)).softmax(dim=1)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets.T)) / 2


def train_projections(
    images: Tensor, expression: Tensor, *, temperature: float, lr: float, epochs: int, device: torch.device
) -> tuple[Projection, Projection]:
    """Train the projections of images (n, d) and expression (n, genes) of the same spots.

    Returns
    -------
    Both, on the CPU and in evaluation mode.
    """
    image, gene = (Projection(values.shape[1]).to(device).train() for values in (images, expression))
    optimizer = torch.optim.AdamW([*image.parameters(), *gene.parameters()], lr=lr, weight_decay=WEIGHT_DECAY)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            projected = image(images[rows].to(device)), gene(expression[rows].to(device))
            optimizer.zero_grad()
            contrastive_loss(*projected, temperature).backward()
            optimizer.step()
    return image.cpu().eval(), gene.cpu().eval()
