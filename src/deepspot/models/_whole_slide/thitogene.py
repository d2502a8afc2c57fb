from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot._features.bags import Bags
from deepspot.errors import InputError

from .base import WholeSlide

if TYPE_CHECKING:
    from torch import Tensor

    from .part import SlideNetwork, SlidePart

# The capsules need tiles of this side.
TILE_PX = 112
DROPOUT = 0.2


@dataclass(eq=False, kw_only=True)
class THItoGene(WholeSlide):
    """THItoGene: capsules of a tile, a transformer over the spots of a slide, and graph attention to neighbors.

    Tiles are embedded by a convolution that depends on their color and by capsules; or a linear layer takes frozen
    embeddings. Learned vectors of column and row are appended. Neighbors are the four nearest spots. The loss is the
    mean squared error, and a slide is a batch.

    Parameters
    ----------
    inputs
        ``"embeddings"`` learns from `bags.spot`, standardized and clipped to three standard deviations, so that systems
        differ in their architecture only. ``"tiles"`` learns from the pixels of `bags.tiles`, which must be 112 px.
    capsules, route
        Number of capsules and their width; the width of a token is (capsules + 2) · route.
    layers, heads
        Number of transformer blocks, and of their attention heads, each of width 64.
    hidden
        Width of the hidden layer in a block.
    graph_heads, graph_dim
        Number of heads of the graph attention, and the widths of a head, of its output and of the last hidden layer.
    published_softmax
        Let attention weights add up to 1 over the spots that have a spot as their neighbor, as in the published
        training, instead of over the neighbors of a spot.
    lr, epochs
        Learning rate of Adam, and number of epochs.
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
    Jia et al., Briefings in Bioinformatics 2024, bbad464. The defaults are those of its experiments but for
    `published_softmax`, which corrects the axis of the softmax. The last layer starts at the mean expression.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.models.THItoGene(capsules=4, route=16, layers=1, heads=2, lr=1e-3, epochs=20).published_softmax
    False
    """

    capsules: int = 20
    route: int = 64
    layers: int = 4
    heads: int = 16
    hidden: int = 2048
    graph_heads: int = 8
    graph_dim: Sequence[int] = (1024, 512, 1024)
    published_softmax: bool = False
    epochs: int = 200

    def _tiles(self, bags: Bags) -> np.ndarray:
        tiles = super()._tiles(bags)
        if tiles.shape[1] != TILE_PX:
            raise InputError(
                f"THItoGene needs tiles of {TILE_PX} px, got {tiles.shape[1]}. Set `tiles={{'tiles_px': {TILE_PX}}}`."
            )
        return tiles

    def _make(self, part: SlidePart, mean: Tensor) -> SlideNetwork:
        from torch import nn

        from .thitogene_network import Capsules, THItoGeneNetwork

        dim = self.capsules * self.route
        return THItoGeneNetwork(
            Capsules(self.capsules, self.route) if self.uses_tiles else nn.Linear(part.inputs.shape[1], dim),
            dim,
            mean,
            route=self.route,
            layers=self.layers,
            heads=self.heads,
            graph_heads=self.graph_heads,
            hidden=self.hidden,
            graph_dim=self.graph_dim,
            n_pos=self.n_pos,
            dropout=DROPOUT,
            published=self.published_softmax,
        )
