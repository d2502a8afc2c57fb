"""The networks of the zoo, without weights. Only timm and transformers build them, never code of a repository."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from deepspot.errors import MissingPackageError

from .specs import Spec


def network(spec: Spec) -> nn.Module:
    """Network of an encoder, without its weights."""
    if spec.library == "transformers":
        cls, arguments = class_of_transformers(spec)
        return cls(**arguments).eval()
    import timm

    layers = {"mlp_layer": timm.layers.SwiGLUPacked} if "mlp_layer" in spec.options else {}
    return timm.create_model(spec.card.architecture, num_classes=0, **spec.options | layers).eval()


def class_of_transformers(spec: Spec) -> tuple[Any, dict[str, Any]]:
    """Class of transformers that an encoder is made of, and the arguments that it is made with."""
    architecture, options = spec.card.architecture, dict(spec.options)
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            f"{architecture} is a network of transformers, which is not installed. Install it with "
            '`pip install "deepspot[zoo]"`.'
        ) from error
    arguments = {"config": getattr(transformers, options.pop("config"))(**options)}
    if architecture == "ViTModel":  # has a layer behind the class token, which is not trained
        arguments["add_pooling_layer"] = False
    return getattr(transformers, architecture), arguments


class Pooled(nn.Module):
    """A network of timm or transformers whose tokens become one vector for each tile.

    `pooling` is as the card says. Of the prefix tokens, class token and registers, the latter hold what the network
    keeps for itself, so they are no part of the mean.
    """

    network: Any

    def __init__(self, network: nn.Module, pooling: str, prefix_tokens: int) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.prefix_tokens = prefix_tokens

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed normalized RGB (n, 3, px, px) as (n, dim)."""
        if self.pooling == "pooled":
            return self.network(pixels)
        return self._one_vector(self.tokens(pixels))

    def with_map(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed as before, and what is seen where (n, rows, columns, dim): averaged over a part, its embedding.

        A cell is a position of the last feature map, or a patch token with, or in place of, the class token.
        """
        if self.pooling == "pooled":
            features = self.network.forward_features(pixels)
            return self.network.forward_head(features), features.permute(0, 2, 3, 1)
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
        """Tokens (n, t, d) after the last normalization: class token, registers, patches."""
        if hasattr(self.network, "forward_features"):  # of timm; transformers gives tokens by itself
            return self.network.forward_features(pixels)
        return self.network(pixel_values=pixels).last_hidden_state
