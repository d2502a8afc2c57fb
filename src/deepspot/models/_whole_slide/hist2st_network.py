"""Network and losses of Hist2ST. Imports torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Block, PositionEmbedding, maximum_of_neighbors, mean_of_neighbors, output_layer
from .part import SlideNetwork, SlidePart

HEAD_WIDTH = 64
# Side of a patch of the convolutions, of which a tile has a whole number; and of their kernels.
PATCH, KERNEL = 7, 5
SMALL = 1e-10
# Bounds of the mean and the dispersion of the counts.
MEAN_BOUNDS, DISPERSION_BOUNDS = (1e-5, 1e6), (1e-4, 1e4)


class ConvMixer(nn.Module):
    """Convolutions of a tile (n, 3, px, px) to a vector (n, (px / 7)² · channels / 8)."""

    def __init__(self, channels: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, channels, PATCH, stride=PATCH)
        self.dropout = nn.Dropout(dropout)
        self.spatial = nn.ModuleList(nn.Sequential(*_depthwise(channels), *_depthwise(channels)) for _ in range(depth))
        self.mixing = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU(), nn.BatchNorm2d(channels)) for _ in range(depth)
        )
        self.down = nn.Conv2d(channels, channels // 8, 1)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the vectors of tiles."""
        maps = self.dropout(self.patch(tiles))
        for spatial, mixing in zip(self.spatial, self.mixing, strict=True):
            maps = mixing(maps + spatial(maps))
        return self.down(maps).flatten(1)


def _depthwise(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, KERNEL, padding="same", groups=channels), nn.BatchNorm2d(channels), nn.GELU()]


class Hist2STNetwork(SlideNetwork):
    """Transformer over the spots of a slide, graph convolutions over their neighbors, and an LSTM over these layers.

    `stem` returns vectors (n, dim) of the inputs, `mean` (genes,) is the mean expression. `likelihood` adds the loss of
    counts with weight `zinb`; `bake` copies of the slide, changed by `augment`, are distilled with weight `lamb`.
    """

    def __init__(
        self,
        stem: nn.Module,
        mean: Tensor,
        *,
        dim: int,
        layers: int,
        graph_layers: int,
        heads: int,
        n_pos: int,
        dropout: float,
        pool: Literal["mean", "max"] = "mean",
        likelihood: Literal["zinb", "nb"] = "zinb",
        zinb: float = 0.25,
        bake: int = 0,
        lamb: float = 0.5,
        augment: nn.Module,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.position = PositionEmbedding(n_pos, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, HEAD_WIDTH, dim, dropout) for _ in range(layers))
        self.graph = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(graph_layers))
        self.pool = {"mean": mean_of_neighbors, "max": maximum_of_neighbors}[pool]
        self.lstm = nn.LSTM(dim, dim, num_layers=2)
        self.norm = nn.LayerNorm(dim)
        self.output = output_layer(dim, mean)
        self.likelihood, self.zinb, self.bake, self.lamb, self.augment = likelihood, zinb, bake, lamb, augment
        n_parameters = {"zinb": 3, "nb": 2}[likelihood] if zinb else 0
        self.of_counts = nn.ModuleList(nn.Linear(dim, len(mean)) for _ in range(n_parameters))
        self.coefficient = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def features(self, part: SlidePart) -> Tensor:
        """Return the vectors (n, dim) of the spots before the heads."""
        column, row = self.position(part.positions)
        tokens = (self.stem(part.inputs) + column + row).unsqueeze(0)
        for block in self.blocks:
            tokens = block(tokens)
        tokens, steps = tokens.squeeze(0), []
        for layer in self.graph:
            tokens = F.normalize(F.relu(layer(self.pool(tokens, part.edges))))
            steps.append(tokens)
        return self.lstm(torch.stack(steps))[0].mean(dim=0)

    def forward(self, part: SlidePart) -> Tensor:
        """Predict expression (n, genes)."""
        return self.predict(self.features(part))

    def predict(self, features: Tensor) -> Tensor:
        """Return the expression (n, genes) of vectors (n, dim)."""
        return self.output(self.norm(features))

    def loss(self, part: SlidePart) -> Tensor:
        """Return the sum of squared error, negative log-likelihood of the counts, and distillation."""
        features = self.features(part)
        predicted = self.predict(features)
        loss = part.squared_error(predicted)
        if self.zinb:
            loss = loss + self.zinb * self.count_loss(features, part)
        if self.bake:
            loss = loss + self.lamb * F.mse_loss(self.distilled(part), predicted)
        return loss

    def count_loss(self, features: Tensor, part: SlidePart) -> Tensor:
        """Return the negative log-likelihood of the counts."""
        known = (part.weights > 0).any(dim=1)
        parameters = [layer(features[known]) for layer in self.of_counts]
        weights, counts = part.weights[known], part.counts[known]
        if self.likelihood == "nb":
            return negative_binomial_loss(counts, weights, *parameters)
        mean = parameters[0].exp().clamp(*MEAN_BOUNDS) * part.size[known].unsqueeze(1)
        dispersion = F.softplus(parameters[1]).clamp(*DISPERSION_BOUNDS)
        return zero_inflated_loss(counts, weights, mean, dispersion, parameters[2].sigmoid())

    def distilled(self, part: SlidePart) -> Tensor:
        """Return the prediction (n, genes) from changed copies of the tiles, weighted by coefficients of every spot."""
        copies = [self.features(replace(part, inputs=self.augment(part.inputs))) for _ in range(self.bake)]
        weights = torch.stack([self.coefficient(features) for features in copies]).softmax(dim=0)
        return (weights * torch.stack([self.predict(features) for features in copies])).sum(dim=0)


def zero_inflated_loss(counts: Tensor, weights: Tensor, mean: Tensor, dispersion: Tensor, zero: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of a zero-inflated negative binomial distribution, with weights.

    All are (n, genes); `zero` is the probability of the additional zeros.
    """
    shifted = dispersion + SMALL
    binomial = torch.lgamma(shifted) + torch.lgamma(counts + 1) - torch.lgamma(counts + shifted)
    binomial = binomial + (dispersion + counts) * torch.log1p(mean / shifted)
    binomial = binomial + counts * (shifted.log() - (mean + SMALL).log())
    present = binomial - torch.log(1 - zero + SMALL)
    absent = -torch.log(zero + (1 - zero) * (dispersion / (dispersion + mean + SMALL)) ** dispersion + SMALL)
    return (weights * torch.where(counts < 1e-8, absent, present)).sum() / weights.sum()


def negative_binomial_loss(counts: Tensor, weights: Tensor, r: Tensor, p: Tensor) -> Tensor:
    """Return the negative log-likelihood of a negative binomial distribution: sum over genes, mean over spots.

    `r` is the logarithm of the number of failures and `p` the logit of success, both (n, genes). The term that depends
    on the counts only is left out.
    """
    failures = r.exp()
    likelihood = torch.lgamma(failures + counts) - torch.lgamma(failures) + p * counts
    likelihood = likelihood - F.softplus(p) * (counts + failures)
    return -(weights * likelihood).sum() / weights.amax(dim=1).sum()
