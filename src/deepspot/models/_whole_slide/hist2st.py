from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from deepspot._features.bags import Bags
from deepspot.errors import InputError

from .base import WholeSlide

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .part import SlideNetwork, SlidePart

DROPOUT = 0.2


@dataclass(eq=False, kw_only=True)
class Hist2ST(WholeSlide):
    """Hist2ST: a transformer over the spots of a slide, graph convolutions over neighbors, and a loss of counts.

    Tiles are embedded by convolutions (ConvMixer), or a linear layer takes frozen embeddings. Neighbors are the four
    nearest spots up to two distances between spots away. The loss is the mean squared error, plus the negative
    log-likelihood of the counts under a zero-inflated negative binomial distribution, plus the distance to the mean
    prediction for changed copies of the tiles.

    Parameters
    ----------
    inputs
        ``"embeddings"`` learns from `bags.spot`, standardized and clipped to three standard deviations, so that systems
        differ in their architecture only. ``"tiles"`` learns from the pixels of `bags.tiles`, as published (112 px);
        their side must be a multiple of 7.
    channels, conv_layers
        Channels and blocks of the convolutions on tiles. With tiles, the width of a token is
        (px / 7)² · channels / 8, and `dim` is not used.
    dim
        Width of a token with embeddings.
    layers, graph_layers
        Numbers of transformer blocks and of graph convolutions.
    heads
        Number of attention heads, each of width 64.
    likelihood, zinb
        Distribution of the counts, ``"zinb"`` or ``"nb"`` (without additional zeros), and the weight of their loss;
        with 0 it is left out.
    bake
        Number of changed copies of a slide: gray, turned by up to 90 degrees, flipped. Only with tiles; their loss has
        weight 0.5.
    lr, epochs
        Learning rate of Adam, with a factor of 0.9 every 50 epochs, and number of epochs.
    seed
        Random seed; the same seed gives the same weights on the same machine. By default from the settings.
    n_pos, max_spots, device
        As of :class:`HisToGene`; dropout is 0.2.

    Attributes
    ----------
    network
        The trained torch module.
    scaler
        Mean and standard deviation of the embeddings of the training spots.

    References
    ----------
    Zeng et al., Briefings in Bioinformatics 2022, bbac297. The defaults are those of its experiments. There, a spot
    without neighbors makes the prediction of the whole slide NaN; here it is its own neighbor. The last layer starts
    at the mean expression.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.models.Hist2ST(dim=64, layers=1, graph_layers=2, heads=2, lr=1e-3, epochs=20).likelihood
    'zinb'
    """

    _neighbors: ClassVar[tuple[int, float]] = (4, 2.0)
    _schedule: ClassVar[tuple[int, float] | None] = (50, 0.9)
    dim: int = 1024
    channels: int = 32
    conv_layers: int = 2
    layers: int = 8
    graph_layers: int = 4
    heads: int = 16
    likelihood: Literal["zinb", "nb"] = "zinb"
    zinb: float = 0.25
    bake: int = 5
    epochs: int = 350

    def _tiles(self, bags: Bags) -> np.ndarray:
        from .hist2st_network import PATCH

        tiles = super()._tiles(bags)
        if tiles.shape[1] % PATCH:
            raise InputError(
                f"Hist2ST needs tiles whose side is a multiple of {PATCH} px, got {tiles.shape[1]}. Set "
                "`tiles={'tiles_px': 112}`."
            )
        return tiles

    def _with_targets(
        self, part: SlidePart, targets: np.ndarray, repeats: np.ndarray, exposure: np.ndarray | None
    ) -> SlidePart:
        import torch

        part = super()._with_targets(part, targets, repeats, exposure)
        if not self.zinb:
            return part
        if exposure is None:
            raise InputError("Hist2ST learns from counts, which need `exposure`. Pass it, or set `zinb=0`.")
        known = part.weights.numpy() > 0
        factor = np.where(known.any(axis=1), exposure, 0)[:, None]
        counts = np.rint(np.expm1(part.targets.numpy()) * factor).astype(np.float32)
        total = counts.sum(axis=1)
        size = total / max(float(np.median(total[known.any(axis=1)])), 1)
        return replace(part, counts=torch.from_numpy(counts), size=torch.from_numpy(size.astype(np.float32)))

    def _make(self, part: SlidePart, mean: Tensor) -> SlideNetwork:
        from torch import nn
        from torchvision.transforms import v2

        from .hist2st_network import PATCH, ConvMixer, Hist2STNetwork

        if self.likelihood not in ("zinb", "nb"):
            raise InputError(f"`likelihood` must be 'zinb' or 'nb', got {self.likelihood!r}.")
        stem: nn.Module
        if self.uses_tiles:
            stem = ConvMixer(self.channels, self.conv_layers, DROPOUT)
            dim = (part.inputs.shape[-1] // PATCH) ** 2 * (self.channels // 8)
        else:
            stem, dim = nn.Linear(part.inputs.shape[1], self.dim), self.dim
        # One draw for all tiles of a slide.
        augment = v2.Compose([v2.RandomGrayscale(0.1), v2.RandomRotation(90), v2.RandomHorizontalFlip(0.2)])
        return Hist2STNetwork(
            stem,
            mean,
            dim=dim,
            layers=self.layers,
            graph_layers=self.graph_layers,
            heads=self.heads,
            n_pos=self.n_pos,
            dropout=DROPOUT,
            likelihood=self.likelihood,
            zinb=self.zinb,
            bake=self.bake if self.uses_tiles else 0,
            augment=augment,
        )
