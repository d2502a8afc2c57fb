"""Network of HisToGene. Imports torch."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import Block, PositionEmbedding, output_layer
from .part import SlideNetwork, SlidePart

HEAD_WIDTH = 64


class HisToGeneNetwork(SlideNetwork):
    """Transformer over the spots of a slide, on a linear embedding of flat inputs (n, d).

    `mean` (genes,) is the mean expression, at which the prediction starts.
    """

    def __init__(self, d: int, mean: Tensor, *, dim: int, layers: int, heads: int, n_pos: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Linear(d, dim)
        self.position = PositionEmbedding(n_pos, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, HEAD_WIDTH, 2 * dim, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.output = output_layer(dim, mean)

    def forward(self, part: SlidePart) -> Tensor:
        """Predict expression (n, genes)."""
        column, row = self.position(part.positions)
        tokens = self.dropout(self.stem(part.inputs) + column + row).unsqueeze(0)
        for block in self.blocks:
            tokens = block(tokens)
        return self.output(self.norm(tokens.squeeze(0)))
