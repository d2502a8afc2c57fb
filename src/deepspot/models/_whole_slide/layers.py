"""Transformer blocks of the models on whole slides. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention with several heads from tokens (b, n, dim) to the tokens of a context (b, m, dim).

    `width` is the width of a head. Queries, keys and values have no bias.
    """

    def __init__(self, dim: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, heads * width, bias=False)
        self.key = nn.Linear(dim, heads * width, bias=False)
        self.value = nn.Linear(dim, heads * width, bias=False)
        self.out = nn.Sequential(nn.Linear(heads * width, dim), nn.Dropout(dropout))

    def forward(self, tokens: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attended values; `bias` (b, heads, n, m) is added to the scores, -inf for masked keys."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, tokens), (self.key, context), (self.value, context))
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(attended.transpose(1, 2).flatten(2))


def output_layer(dim: int, mean: Tensor) -> nn.Linear:
    """Return a linear layer (dim → genes) whose bias starts at the mean expression (genes,)."""
    layer = nn.Linear(dim, len(mean))
    with torch.no_grad():
        layer.bias.copy_(mean)
    return layer


class Block(nn.Module):
    """Transformer block with normalization first: attention, then a network with one hidden layer of width `hidden`.

    One normalization is shared by the tokens and their context.
    """

    def __init__(self, dim: int, heads: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, width, dropout)
        self.feed = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return the tokens after the block; without a context they attend to themselves."""
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed if context is None else self.norm(context), bias)
        return tokens + self.feed(tokens)


class PositionEmbedding(nn.Module):
    """Learned vectors (n, dim) of columns and rows (n, 2) of the spot array, from 0 to `n_pos` - 1."""

    def __init__(self, n_pos: int, dim: int) -> None:
        super().__init__()
        self.column, self.row = nn.Embedding(n_pos, dim), nn.Embedding(n_pos, dim)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of the columns and of the rows."""
        return self.column(positions[:, 0]), self.row(positions[:, 1])


def mean_of_neighbors(features: Tensor, edges: Tensor) -> Tensor:
    """Return the mean (n, d) of the features of the neighbors. `edges` (2, e) are pairs of a spot and its neighbor."""
    spot, neighbor = edges
    total = torch.zeros_like(features).index_add(0, spot, features[neighbor])
    return total / torch.bincount(spot, minlength=len(features)).unsqueeze(1)


def maximum_of_neighbors(features: Tensor, edges: Tensor) -> Tensor:
    """Return the largest value (n, d) of every feature among the neighbors."""
    spot, neighbor = edges
    index = spot.unsqueeze(1).expand(-1, features.shape[1])
    return torch.zeros_like(features).scatter_reduce(0, index, features[neighbor], "amax", include_self=False)
