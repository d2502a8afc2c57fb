"""Network of THItoGene. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Block, PositionEmbedding, output_layer
from .part import SlideNetwork, SlidePart

HEAD_WIDTH = 64
N_KERNELS, CHANNELS, STRIDE = 4, 16, 4
N_PRIMARY, PRIMARY_WIDTH = 16, 8
SMALL = 1e-20


class DynamicConvolution(nn.Module):
    """Convolution of tiles (n, 3, 112, 112) to (n, 16, 28, 28) whose kernel depends on the mean color of the tile.

    The kernel is a weighted sum of four; input channels, places of the kernel and output channels are weighted, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(N_KERNELS, CHANNELS, 3, STRIDE, STRIDE))
        nn.init.kaiming_normal_(self.weight.flatten(0, 1), mode="fan_out", nonlinearity="relu")
        self.color = nn.Sequential(nn.Conv2d(3, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU())
        self.channel = nn.Conv2d(CHANNELS, 3, 1)
        self.filter = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.place = nn.Conv2d(CHANNELS, STRIDE**2, 1)
        self.kernel = nn.Conv2d(CHANNELS, N_KERNELS, 1)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the maps of tiles."""
        n = len(tiles)
        color = self.color(tiles.mean(dim=(2, 3), keepdim=True))
        place = self.place(color).sigmoid().view(n, 1, 1, STRIDE, STRIDE)
        mixture = torch.einsum("nk,koihw->noihw", self.kernel(color).flatten(1).softmax(dim=1), self.weight)
        kernels = (place * mixture).flatten(0, 1)
        weighted = (tiles * self.channel(color).sigmoid()).reshape(1, -1, *tiles.shape[2:])
        maps = F.conv2d(weighted, kernels, stride=STRIDE, groups=n)
        return maps.view(n, CHANNELS, *maps.shape[2:]) * self.filter(color).sigmoid()


class Capsules(nn.Module):
    """Tiles (n, 3, 112, 112) to the vectors of capsules (n, capsules · width)."""

    def __init__(self, capsules: int, width: int) -> None:
        super().__init__()
        self.convolution = DynamicConvolution()
        channels = [(CHANNELS, 32, 5, 1), (32, 64, 3, 1), (64, 64, 3, 1), (64, N_PRIMARY * PRIMARY_WIDTH, 3, 2)]
        self.maps = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, kernel, stride=stride), nn.BatchNorm2d(b), nn.ReLU())
                for a, b, kernel, stride in channels
            )
        )
        last = channels[-1][1]
        self.primary = nn.Conv2d(last, last, 9, groups=last)
        self.weight = nn.Parameter(torch.empty(capsules, N_PRIMARY, PRIMARY_WIDTH, width))
        self.bias = nn.Parameter(torch.zeros(capsules, N_PRIMARY, 1))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the vectors of the capsules."""
        maps = self.primary(self.maps(F.relu(self.convolution(tiles))))
        primary = squash(maps.view(len(tiles), N_PRIMARY, PRIMARY_WIDTH))
        votes = torch.einsum("nji,kjio->nkjo", primary, self.weight)
        agreement = torch.einsum("nkjo,nko->nkj", votes, votes.sum(dim=2)) / votes.shape[-1] ** 0.5
        coupling = agreement.softmax(dim=1).unsqueeze(-1) + self.bias
        return squash((coupling * votes).sum(dim=2)).flatten(1)


def squash(vectors: Tensor) -> Tensor:
    """Scale vectors (..., d) to lengths below 1."""
    length = vectors.norm(dim=-1, keepdim=True)
    return (1 - 1 / (length.exp() + SMALL)) * vectors / (length + SMALL)


class GraphAttention(nn.Module):
    """Attention of every spot to its neighbors, with parallel heads.

    Weights add up to 1 over the neighbors of a spot; or, if `published`, over the spots that a spot is a neighbor of,
    as in the published training. A spot that is nobody's neighbor then contributes equally to all spots.
    """

    def __init__(self, dim: int, out: int, heads: int, dropout: float, *, published: bool) -> None:
        super().__init__()
        self.project = nn.Parameter(torch.empty(heads, dim, out))
        self.to_spot, self.to_neighbor = (nn.Parameter(torch.empty(heads, out)) for _ in range(2))
        for weight in (self.project, self.to_spot, self.to_neighbor):
            nn.init.xavier_uniform_(weight, gain=2**0.5)
        self.dropout, self.published = nn.Dropout(dropout), published

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Return the attended features (n, heads · out) of spots (n, dim)."""
        (spot, neighbor), n = edges, len(features)
        projected = torch.einsum("ni,hio->nho", features, self.project)
        score = (projected * self.to_spot).sum(-1)[spot] + (projected * self.to_neighbor).sum(-1)[neighbor]
        over = neighbor if self.published else spot
        weights = self.dropout(grouped_softmax(F.leaky_relu(score, 0.01), over, n))
        attended = torch.zeros_like(projected).index_add(0, spot, weights.unsqueeze(-1) * projected[neighbor])
        if self.published:
            alone = torch.bincount(neighbor, minlength=n) == 0
            attended = attended + projected[alone].sum(dim=0) / n
        return F.elu(attended).flatten(1)


def grouped_softmax(scores: Tensor, group: Tensor, n: int) -> Tensor:
    """Return the softmax of scores (e, heads) within each of n groups (e,)."""
    index = group.unsqueeze(1).expand_as(scores)
    largest = torch.full((n, scores.shape[1]), -torch.inf, dtype=scores.dtype, device=scores.device)
    largest = largest.scatter_reduce(0, index, scores.detach(), "amax")
    powers = (scores - largest[group]).exp()
    return powers / torch.zeros_like(largest).index_add(0, group, powers)[group]


class THItoGeneNetwork(SlideNetwork):
    """Transformer over the spots of a slide, then attention to their neighbors.

    `stem` returns vectors (n, stem_dim) of the inputs, to which vectors of column and row of width `route` are
    appended. `mean` (genes,) is the mean expression.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_dim: int,
        mean: Tensor,
        *,
        route: int,
        layers: int,
        heads: int,
        graph_heads: int,
        hidden: int,
        graph_dim: Sequence[int],
        n_pos: int,
        dropout: float,
        published: bool,
    ) -> None:
        super().__init__()
        dim, (inside, out, last) = stem_dim + 2 * route, graph_dim
        self.stem = stem
        self.position = PositionEmbedding(n_pos, route)
        self.blocks = nn.ModuleList(Block(dim, heads, HEAD_WIDTH, hidden, dropout) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.graph = GraphAttention(dim, inside, graph_heads, dropout, published=published)
        self.graph_out = GraphAttention(graph_heads * inside, out, 1, dropout, published=published)
        self.head = nn.Sequential(nn.Linear(out, last), nn.ReLU(), nn.LayerNorm(last))
        self.output = output_layer(last, mean)

    def forward(self, part: SlidePart) -> Tensor:
        """Predict expression (n, genes)."""
        tokens = torch.cat([self.stem(part.inputs), *self.position(part.positions)], dim=1).unsqueeze(0)
        for block in self.blocks:
            tokens = block(tokens)
        attended = self.dropout(self.graph(self.dropout(tokens.squeeze(0)), part.edges))
        return self.output(self.head(self.graph_out(attended, part.edges)))
