"""Network of TRIPLEX on frozen features. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Block, output_layer
from .part import SlideNetwork, SlidePart

WINDOW = 5
# Unit in which positions are compared: those that round to the same multiple are one column or row.
ROUNDED = 20
# Weight of the fused prediction, instead of the measurement, as the target of the three others.
ALPHA = 0.3
# Spots that are fused at once in prediction.
BATCH = 512


class Encoder(nn.Module):
    """Transformer blocks over the 5 × 5 places around a spot, with a learned bias of their relative position."""

    def __init__(self, dim: int, layers: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, dim // heads, mlp * dim, dropout) for _ in range(layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(heads, WINDOW**2)) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        row, column = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
        row, column = ((x.reshape(-1, 1) - x.reshape(1, -1)).abs() for x in (row, column))
        self.register_buffer("relative", WINDOW * row + column, persistent=False)

    def forward(self, tokens: Tensor, known: Tensor) -> Tensor:
        """Return the tokens (n, 25, dim); those that are not `known` (n, 25) are not attended to."""
        for block, bias in zip(self.blocks, self.bias, strict=True):
            scores = bias[:, self.relative].masked_fill(~known[:, None, None], -torch.inf)
            tokens = block(tokens, bias=scores)
        return self.norm(tokens)


class GridConvolution(nn.Module):
    """Depthwise convolution (3 × 3) of the spots of a slide on a grid; its output replaces the tokens (n, dim).

    The grid has as many columns (rows) as the spots have different positions. Spots in one cell are averaged, and empty
    cells are 0.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, tokens: Tensor, positions: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the tokens; `size` are the numbers of columns and rows, by default those of the positions (n, 2)."""
        width, height = grid_size(positions) if size is None else size
        low, high = positions.amin(dim=0), positions.amax(dim=0)
        steps = torch.tensor([width - 1, height - 1], dtype=positions.dtype, device=positions.device)
        column, row = ((positions - low) / (high - low + 1e-5) * steps).round().long().unbind(dim=1)
        cell = row * width + column
        total = tokens.new_zeros(width * height, tokens.shape[1]).index_add(0, cell, tokens)
        mean = total / torch.bincount(cell, minlength=len(total)).clamp(min=1).unsqueeze(1)
        maps = self.convolution(mean.T.reshape(1, -1, height, width))
        return maps.flatten(2)[0].T[cell]


def grid_size(positions: Tensor) -> tuple[int, int]:
    """Return the numbers of columns and rows of positions (n, 2) that differ after rounding to multiples of 20."""
    rounded = (positions / ROUNDED).round()
    return len(rounded[:, 0].unique()), len(rounded[:, 1].unique())


class TriplexNetwork(SlideNetwork):
    """Three encoders of a spot (target, neighbors, slide), each with its own prediction, and their fusion.

    All tokens and features have width `dim`, `mean` (genes,) is the mean expression. `d_target` is the width of the
    target features, and `d` that of the other features if they are to be projected. `layers`, `heads`, `mlp` and
    `dropout` are those of fusion, slide and neighbors.
    """

    def __init__(
        self,
        d_target: int,
        dim: int,
        mean: Tensor,
        *,
        layers: Sequence[int],
        heads: Sequence[int],
        mlp: Sequence[int],
        dropout: Sequence[float],
        d: int | None = None,
    ) -> None:
        super().__init__()
        sizes = list(zip(layers, heads, mlp, dropout, strict=True))
        self.project = nn.Identity() if d is None else nn.Linear(d, dim)
        self.target = nn.Linear(d_target, dim)
        self.neighbors = Encoder(dim, *sizes[2])
        n, heads_, mlp_, dropout_ = sizes[1]
        self.slide = nn.ModuleList(Block(dim, heads_, dim // heads_, mlp_ * dim, dropout_) for _ in range(n))
        self.grid = GridConvolution(dim)
        self.slide_norm = nn.LayerNorm(dim)
        n, heads_, mlp_, dropout_ = sizes[0]
        self.fusion = nn.ModuleList(Block(dim, heads_, dim // heads_, mlp_ * dim, dropout_) for _ in range(n))
        self.fusion_norm = nn.LayerNorm(dim)
        self.head = output_layer(dim, mean)
        self.heads = nn.ModuleList(output_layer(dim, mean) for _ in range(3))

    def encode_slide(self, features: Tensor, positions: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the slide tokens (n, dim) of features (n, dim); `size` as of :class:`GridConvolution`."""
        tokens = self.slide[0](features.unsqueeze(0))
        tokens = self.grid(tokens.squeeze(0), positions, size).unsqueeze(0)
        for block in self.slide[1:]:
            tokens = block(tokens)
        return self.slide_norm(tokens.squeeze(0))

    def fuse(
        self, slide: Tensor, target: Tensor, window: Tensor, known: Tensor, present: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the fused prediction of b spots, and those of target, neighbors and slide, each (b, genes).

        `slide` (b, dim) are slide tokens, `target` (b, t, d_target) features of the spot, `window` (b, 25, dim) those
        of the places around it, of which some are `known` (b, 25). Some of the `target` may not be `present` (b, t).
        """
        target, window = self.target(target), self.neighbors(window, known)
        masked = _attention_mask(known, window.dtype)
        masked_target = None if present is None else _attention_mask(present, window.dtype)
        query = slide.unsqueeze(1)
        with_target, with_window = query, query
        for block in self.fusion:
            with_target, with_window = block(with_target, target, masked_target), block(with_window, window, masked)
        fused = self.head(self.fusion_norm((with_target + with_window).squeeze(1)))
        mean = target.mean(dim=1)
        if present is not None:
            mean = (target * present.unsqueeze(-1)).sum(dim=1) / present.sum(dim=1, keepdim=True)
        alone = [head(x) for head, x in zip(self.heads, (mean, window.mean(dim=1), slide), strict=True)]
        return F.relu(fused), [F.relu(predicted) for predicted in alone]

    def forward(self, part: SlidePart) -> Tensor:
        """Predict expression (n, genes)."""
        rows = torch.arange(len(part), device=part.inputs.device)
        features = self.project(part.inputs)
        slide = self.encode_slide(features, part.positions)
        return torch.cat([self._predict(part, features, slide, batch)[0] for batch in rows.split(BATCH)])

    def loss(self, part: SlidePart) -> Tensor:
        """Return the loss of the spots `part.rows`."""
        features = self.project(part.inputs)
        fused, alone = self._predict(part, features, self.encode_slide(features, part.positions), part.rows)
        return combined_loss(part, fused, alone)

    def _predict(self, part: SlidePart, features: Tensor, slide: Tensor, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the predictions of some spots, see :meth:`fuse`."""
        window = part.window[rows]
        present = part.present[rows] if len(part.present) else None
        return self.fuse(slide[rows], part.target[rows], features[window.clamp(min=0)], window >= 0, present)


def _attention_mask(known: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores of keys (b, k): -inf for those that are not known."""
    return torch.zeros_like(known, dtype=dtype).masked_fill(~known, -torch.inf)[:, None, None]


def combined_loss(part: SlidePart, fused: Tensor, alone: Sequence[Tensor]) -> Tensor:
    """Return the squared error of the fused prediction, and of the others against both measurement and fusion."""
    loss = part.squared_error(fused)
    for predicted in alone:
        loss = loss + (1 - ALPHA) * part.squared_error(predicted) + ALPHA * F.mse_loss(predicted, fused)
    return loss
