from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspot._features.bags import Bags
from deepspot.errors import InputError
from deepspot.models._inputs import Scaler

from .base import Baseline, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn


class STNet(Baseline):
    """ST-Net: a linear head on an image network, trained by SGD, frozen or end to end.

    The head starts from the mean expression and no weights. The loss is the squared error on expression itself, summed
    over the spots of a batch (32) and averaged over the genes that were measured; momentum is 0.9. Frozen, the head
    learns from `bags.spot` and nothing else does: so ran the DeepSpot paper's pipeline.

    Parameters
    ----------
    fine_tune
        Train the image network too, from `bags.tiles`, flipped and turned by quarters at random. A prediction is then
        the mean over the eight symmetries of a tile.
    backbone
        Image network of a fine-tuned model: None for the package's EfficientNet-Lite0; a name of timm such as
        ``"densenet121"``, with pretrained weights, normalized as they say; or a function that makes a module
        (n, 3, px, px) → (n, d), which gets colors in -1 to 1.
    weights
        File with the weights of a timm model (``.safetensors``, or a state dict of torch), instead of a download.
    lr
        Learning rate. The published one is for images; embeddings of another scale need another.
    epochs
        Passes over the training spots.
    px
        Side to which tiles are resized.
    seed
        Same seed, same weights on the same machine.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.

    Attributes
    ----------
    network
        The trained torch module.

    References
    ----------
    He et al., Nature Biomedical Engineering 2020: DenseNet-121 fine-tuned on tiles of 224 px, the 250 genes of highest
    mean. Here genes are up to the caller, colors are normalized as the backbone's weights want it, and turns are drawn
    evenly from all eight symmetries.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.STNet(lr=1e-3, epochs=5).fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    _state = "network"
    network: nn.Module

    def __init__(
        self,
        *,
        fine_tune: bool = False,
        backbone: str | Callable[[], nn.Module] | None = None,
        weights: str | Path | None = None,
        lr: float = 1e-6,
        epochs: int = 50,
        px: int = 224,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        self.fine_tune = fine_tune
        self.backbone = backbone
        self.weights = weights
        self.lr = lr
        self.epochs = epochs
        self.px = px
        self.seed = seed
        self.device = device

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        from deepspot._core.compute import choose_device

        from .stnet_network import train_head

        inputs, device, mean = self._inputs(bags), choose_device(self.device), Scaler.fit(targets[rows]).mean
        with seeded(self.seed, device):
            network, turned = self._make(bags, mean), self.fine_tune
            self.network = train_head(
                network, inputs, targets, rows, lr=self.lr, epochs=self.epochs, device=device, turned=turned
            )

    def _predict(self, bags: Bags) -> np.ndarray:
        from deepspot._core.compute import choose_device

        from .stnet_network import apply_head

        return apply_head(self.network, self._inputs(bags), device=choose_device(self.device), turned=self.fine_tune)

    def _inputs(self, bags: Bags) -> Tensor:
        """Embeddings, or tiles (n, 3, px, px) where the image network learns."""
        import torch

        if not self.fine_tune:
            return torch.as_tensor(bags.spot)
        if bags.tiles is None:
            raise InputError(
                "STNet with `fine_tune=True` learns from pixels, but the bags have no tiles. Make them with "
                "`Bags(tiles=...)`, uint8 (n, px, px, 3), or take `fine_tune=False` to learn from embeddings."
            )
        return torch.as_tensor(bags.tiles).permute(0, 3, 1, 2)

    def _make(self, bags: Bags, mean: np.ndarray) -> nn.Module:
        """The network before training, which predicts the mean."""
        import torch
        from torch import nn

        from .stnet_network import make_backbone

        body = make_backbone(self.backbone, self.weights, self.px) if self.fine_tune else None
        head = nn.Linear(bags.dim if body is None else body.dim(), len(mean))
        nn.init.zeros_(head.weight)
        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(mean))
        return head if body is None else nn.Sequential(body, head)
