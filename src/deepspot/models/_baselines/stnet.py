from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspot._features.bags import Bags
from deepspot.errors import InputError
from deepspot.models._inputs import Scaler

from .base import Baseline, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(eq=False, kw_only=True)
class STNet(Baseline):
    """ST-Net: a linear head on an image network, trained by SGD, with the image network frozen or fine-tuned.

    The head is initialized with the mean expression and zero weights. The loss is the squared error of expression,
    summed over the spots of a batch (32) and averaged over the measured genes; momentum is 0.9. With a frozen image
    network only the head on `bags.spot` is trained, as in the pipeline of the DeepSpot paper.

    Parameters
    ----------
    fine_tune
        Also train the image network, from `bags.tiles` with random flips and quarter turns. The prediction is then the
        mean over the eight symmetries of a tile.
    backbone
        Image network of a fine-tuned model: None for the package's EfficientNet-Lite0; the name of a timm model such as
        ``"densenet121"``, with pretrained weights and their normalization; or a function that returns a module
        (n, 3, px, px) → (n, d), whose input is colors from -1 to 1.
    weights
        File with the weights of a timm model (``.safetensors``, or a state dict of torch), instead of a download.
    lr
        Learning rate. The published one is for images; embeddings of another scale need another.
    epochs
        Number of epochs.
    px
        Side in pixels to which tiles are resized.
    seed
        Random seed; the same seed gives the same weights on the same machine. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.

    Attributes
    ----------
    network
        The trained torch module.

    References
    ----------
    He et al., Nature Biomedical Engineering 2020: DenseNet-121 fine-tuned on tiles of 224 px, the 250 genes of highest
    mean. Here the caller chooses the genes, colors are normalized as for the backbone's weights, and all eight
    symmetries are drawn with the same probability.

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
    fine_tune: bool = False
    backbone: str | Callable[[], nn.Module] | None = None
    weights: str | Path | None = None
    lr: float = 1e-6
    epochs: int = 50
    px: int = 224
    seed: int | None = None
    device: str | None = None
    network: nn.Module = field(init=False, repr=False)

    @property
    def uses_tiles(self) -> bool:
        """Whether the model learns from pixels."""
        return self.fine_tune

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        from deepspot._core.compute import choose_device

        from .stnet_network import train_head

        inputs, device, mean = self._inputs(bags), choose_device(self.device), Scaler.fit(targets[rows]).mean
        with seeded(self._seed, device):
            network, turned = self._make(bags, mean), self.fine_tune
            self.network = train_head(
                network, inputs, targets, rows, lr=self.lr, epochs=self.epochs, device=device, turned=turned
            )

    def _predict(self, bags: Bags) -> np.ndarray:
        from deepspot._core.compute import choose_device

        from .stnet_network import apply_head

        return apply_head(self.network, self._inputs(bags), device=choose_device(self.device), turned=self.fine_tune)

    def _inputs(self, bags: Bags) -> Tensor:
        """Return embeddings, or tiles (n, 3, px, px) for fine-tuning."""
        import torch

        if not self.fine_tune:
            return torch.as_tensor(bags.spot)
        if bags.tiles is None:
            raise InputError(
                "STNet with `fine_tune=True` learns from pixels, but the bags have no tiles. Make them with "
                "`Bags(tiles=...)`, uint8 (n, px, px, 3), or pass `fine_tune=False` to learn from embeddings."
            )
        return torch.as_tensor(bags.tiles).permute(0, 3, 1, 2)

    def _make(self, bags: Bags, mean: np.ndarray) -> nn.Module:
        """Return the untrained network, which predicts the mean."""
        import torch
        from torch import nn

        from .stnet_network import make_backbone

        body = make_backbone(self.backbone, self.weights, self.px) if self.fine_tune else None
        head = nn.Linear(bags.dim if body is None else body.dim(), len(mean))
        nn.init.zeros_(head.weight)
        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(mean))
        return head if body is None else nn.Sequential(body, head)
