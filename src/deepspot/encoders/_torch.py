from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepspot._device import autocast, choose_device
from deepspot._fingerprint import digest

from ._card import EncoderCard
from ._resize import prepare
from ._statistics import VERSION as STATISTICS_VERSION
from ._statistics import statistics


class TorchEncoder:
    """An encoder made of a torch module: tiles are resized, normalised and encoded in batches.

    Parameters
    ----------
    card
        Describes the module.
    module
        Maps normalised RGB (n, 3, px, px) to embeddings (n, dim).
    transform
        Takes RGB in 0 to 1 (n, 3, px, px) to what the module wants; by default the card's mean and std.
    identity
        Names module and weights for good, where the module itself would look different after an update of the library
        that builds it. By default both are hashed.
    """

    def __init__(
        self,
        card: EncoderCard,
        module: nn.Module,
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        identity: str = "",
    ) -> None:
        self.card = card
        self.module = module.eval().requires_grad_(False)
        self.transform = transform or self._normalize
        self.recipe = "" if transform is None else _code(transform)
        self.identity = identity
        self.device = torch.device("cpu")
        self.appended: list[str | float] = []

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of all that an embedding depends on: input, preprocessing, module, weights, what is appended."""
        return digest(self.card.preprocessing(), self.identity or _describe(self.module), self.recipe, self.appended)

    def to(self, device: str | torch.device | None) -> TorchEncoder:
        """Move to a device (None chooses one)."""
        self.device = choose_device(device)
        # Convolutions on channels-last memory run twice as fast on CPUs, and on tensor cores.
        self.module = self.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles (n, height, width, 3) in uint8 as float32 (n, dim)."""
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[-1] != 3:
            raise ValueError(f"`tiles` must be uint8 of shape (n, height, width, 3), got {tiles.dtype} {tiles.shape}.")
        with torch.inference_mode(), autocast(self.device):
            embedding = self.forward(prepare(tiles, self.card, self.device))
        return embedding.float().cpu().numpy()

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed resized RGB in 0 to 1."""
        return self.module(self.transform(pixels))

    def _normalize(self, pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (self.card.mean, self.card.std))
        return (pixels - mean) / std


class StatisticsEncoder(TorchEncoder):
    """A torch encoder with stain and texture statistics of the tile appended, times `weight`."""

    def __init__(self, card: EncoderCard, module: nn.Module, *, weight: float, identity: str = "") -> None:
        super().__init__(card, module, identity=identity)
        self.weight = weight
        self.appended = ["statistics", STATISTICS_VERSION, weight]

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed resized RGB in 0 to 1."""
        embedding = super().forward(pixels)
        # Half precision is fine for the network, but it would blur differences between the stains.
        with torch.autocast(pixels.device.type, enabled=False):
            return torch.cat([embedding.float(), self.weight * statistics(pixels.float())], dim=1)


def _describe(module: nn.Module) -> list[Any]:
    weights = [[name, digest(value.cpu().float().numpy())] for name, value in module.state_dict().items()]
    return [repr(module), weights]


def _code(transform: Callable[[Tensor], Tensor]) -> str:
    # The repr of a function is its address; its code is what it does. Transforms of torchvision describe themselves.
    code = getattr(transform, "__code__", None)
    if code is None:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(transform))
    around = [repr(cell.cell_contents) for cell in getattr(transform, "__closure__", None) or ()]
    return f"{_flat(code)} {around}"


def _flat(code: CodeType) -> str:
    constants = [_flat(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"
