from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Pooled(nn.Module):
    """A network whose tokens become one vector for each tile.

    Parameters
    ----------
    network
        Of timm, or of transformers.
    pooling
        As the card says.
    prefix_tokens
        Class token and registers. Registers hold what the network keeps for itself, so they are no part of the mean.
    """

    def __init__(self, network: nn.Module, pooling: str, prefix_tokens: int) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.prefix_tokens = prefix_tokens

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed normalised RGB (n, 3, px, px) as (n, dim)."""
        if self.pooling == "pooled":
            return self.network(pixels)
        return self._one_vector(self.tokens(pixels))

    def with_map(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed as before, and what is seen where (n, rows, columns, dim): averaged over a part, its embedding.

        A cell is a position of the last feature map, or a patch token with, or in place of, the class token.
        """
        if self.pooling == "pooled":
            features = self.network.forward_features(pixels)  # type: ignore[operator]
            return self.network.forward_head(features), features.permute(0, 2, 3, 1)  # type: ignore[operator]
        tokens = self.tokens(pixels)
        patches = tokens[:, self.prefix_tokens :]
        side = math.isqrt(patches.shape[1])
        if self.pooling == "cls+mean":
            patches = torch.cat([tokens[:, :1].expand_as(patches), patches], dim=-1)
        return self._one_vector(tokens), patches.unflatten(1, (side, side))

    def _one_vector(self, tokens: Tensor) -> Tensor:
        if self.pooling == "cls":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, self.prefix_tokens :].mean(dim=1)], dim=-1)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Tokens (n, t, d) after the last normalisation: class token, registers, patches."""
        features = getattr(self.network, "forward_features", None)  # timm's; transformers gives tokens by itself
        if features is not None:
            return features(pixels)
        return self.network(pixel_values=pixels).last_hidden_state
