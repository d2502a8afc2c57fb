from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from deepspot._features.bags import Bags
from deepspot.errors import InputError
from deepspot.models._inputs import CLIP, Scaler

from .array import window
from .base import WholeSlide

if TYPE_CHECKING:
    from torch import Tensor

    from .part import SlideNetwork, SlidePart


@dataclass(eq=False, kw_only=True)
class TRIPLEX(WholeSlide):
    """TRIPLEX: fusion of the features of a spot, of the places around it, and of the whole slide.

    All features are frozen embeddings. Those of the spot itself are the embeddings of its sub-spots, or of its tile if
    it has no sub-spots; those around it are the embeddings of the spots at 5 × 5 places of the array. The encoder of
    the slide is a transformer over all spots with a convolution on the grid of their positions. Each of the three also
    predicts alone; the loss compares all predictions with the measurement and with the fused one.

    Parameters
    ----------
    dim
        Width of all tokens. Embeddings of another width are projected by a linear layer.
    layers, heads, mlp, dropout
        Numbers of transformer blocks and attention heads, width of the hidden layer in units of `dim`, and dropout
        rate, each of fusion, slide and neighbors.
    max_spots
        A slide with more spots is divided into rectangular parts, each of which is seen alone. This limits the memory.
    lr, epochs
        Learning rate of AdamW, and number of epochs. A batch are 128 spots of one slide.
    seed
        Random seed; the same seed gives the same weights on the same machine. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.
    inputs, n_pos
        As of :class:`HisToGene`; the only choice of `inputs` is ``"embeddings"``.

    Attributes
    ----------
    network
        The trained torch module.
    scaler
        Mean and standard deviation of the embeddings of the training spots.

    References
    ----------
    Chung et al., CVPR 2024; code of May 2025. `layers`, `heads`, `mlp` and `dropout` are those of its experiments on
    breast cancer. There, the features of the spot are those of a fine-tuned ResNet-18, the places around it are tiles
    of their own, the number of epochs is chosen on the test fold, the grid of the first slide is used for all slides,
    and dropout stays on in prediction. Expression is averaged over 3 × 3 spots there, and not here.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.models.TRIPLEX(dim=64, heads=(4, 4, 4), epochs=10).layers
    (1, 3, 3)
    """

    _batch: ClassVar[int | None] = 128
    _decay: ClassVar[float] = 0.01
    dim: int = 512
    layers: Sequence[int] = (1, 3, 3)
    heads: Sequence[int] = (4, 16, 16)
    mlp: Sequence[int] = (4, 4, 1)
    dropout: Sequence[float] = (0.2, 0.1, 0.3)
    lr: float = 1e-4
    epochs: int = 50

    def _tiles(self, bags: Bags) -> np.ndarray:
        raise InputError("TRIPLEX learns from embeddings. Leave `inputs` out.")

    def _part(self, bags: Bags, spots: np.ndarray, columns: np.ndarray, scaler: Scaler) -> SlidePart:
        import torch

        from .triplex_network import ROUNDED, WINDOW

        part = super()._part(bags, spots, columns, scaler)
        own, present = bags.spot[spots][:, None], np.empty(0, dtype=bool)
        if bags.present is not None and bags.subspots is not None:
            # A spot without sub-spots is represented by its tile.
            present = np.column_stack([bags.present[spots], ~bags.present[spots].any(axis=1)])
            own = np.concatenate([bags.subspots[spots], own], axis=1)
        elif bags.subspots is not None:
            own = bags.subspots[spots]
        target = scaler.standardize(own.astype(np.float32)).clip(-CLIP, CLIP)
        return replace(
            part,
            positions=ROUNDED * part.positions.float(),
            window=torch.from_numpy(window(self._position(bags)[spots], WINDOW)),
            target=torch.from_numpy(target),
            present=torch.from_numpy(present),
        )

    def _make(self, part: SlidePart, mean: Tensor) -> SlideNetwork:
        from .triplex_network import TriplexNetwork

        for name in ("layers", "heads", "mlp", "dropout"):
            if len(getattr(self, name)) != 3:
                raise InputError(f"`{name}` must have three values, of fusion, slide and neighbors.")
        if uneven := [heads for heads in self.heads if self.dim % heads]:
            raise InputError(f"`dim={self.dim}` must be a multiple of the number of `heads`, got {uneven}.")
        return TriplexNetwork(
            part.target.shape[-1],
            self.dim,
            mean,
            d=part.inputs.shape[1],
            layers=self.layers,
            heads=self.heads,
            mlp=self.mlp,
            dropout=self.dropout,
        )
