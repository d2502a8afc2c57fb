"""Encoders made from torch modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from deepspot._core.compute import Pending, autocast, choose_device, start_in_threads
from deepspot._core.hashing import digest
from deepspot._core.settings import settings
from deepspot.errors import InputError

from ._card import EncoderCard, check_tiles
from ._fingerprint import describe_code, describe_module
from ._onnx import OnnxNetwork
from ._parts import pool

PIXELS_PER_THREAD = 2 * 224**2
"""Pixels per thread and call on a CPU, two tiles of 224 px. The buffers of more do not fit into the caches."""

TRANSLATION = Lock()
"""A network is translated by the first thread that needs it."""

T = TypeVar("T")
R = TypeVar("R")


class TorchEncoder:
    """Encoder made from a torch module. Tiles are resized, normalized and encoded in batches.

    Parameters
    ----------
    card
        Description of the module.
    module
        Module that maps normalized RGB (n, 3, px, px) to embeddings (n, dim).
    transform
        Function that preprocesses RGB in 0 to 1 (n, 3, px, px); by default normalization by the card's mean and std.
    identity
        Text that identifies module and weights, for modules whose structure may change with the library that builds
        them. By default both are hashed.
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
        self.recipe = "" if transform is None else describe_code(transform)
        self.identity = identity
        self.device = torch.device("cpu")
        self.appended: list[str | float] = []
        self.translated: dict[tuple[str, int], OnnxNetwork] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"translated": {}}  # sessions cannot be pickled

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that embeddings depend on: preprocessing, module, weights and appended statistics."""
        module = self.identity or describe_module(self.module)
        return digest(self.card.preprocessing(), module, self.recipe, self.appended)

    def to(self, device: str | torch.device | None) -> TorchEncoder:
        """Move the encoder to a device (None selects one)."""
        self.device = choose_device(device)
        # Convolutions on channels-last memory run twice as fast, on CPUs and tensor cores.
        self.module = self.module.to(device=self.device).to(memory_format=torch.channels_last)
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles (n, height, width, 3) in uint8 as float32 (n, dim)."""
        return self.start(tiles).result()

    def start(self, tiles: np.ndarray, grid: int | None = None) -> Pending[Any]:
        """Begin :meth:`encode`; of encoders with a map, :meth:`MapEncoder.encode_parts` if there is a `grid`."""

        def embed(pixels: Tensor) -> Tensor:
            return self.forward(self.transform(pixels), self.appendix(pixels)).cpu()

        return self._in_batches(tiles, embed, lambda outputs: torch.cat(outputs).numpy())

    def resize_ahead(self, tiles: np.ndarray) -> np.ndarray:
        """Resize tiles that are resized as 8-bit images. :meth:`encode` gives the same result for resized tiles."""
        return resize(tiles, self.card)

    @property
    def concurrent(self) -> int:
        """Number of batches that are computed at the same time, on a CPU, each on one core.

        It is 1 for a module of the user, which may keep values of a call, for example in hooks.
        """
        return torch.get_num_threads() if self.device.type == "cpu" and isinstance(self.module, Pooled) else 1

    def at_once(self, n: int) -> int:
        """Return how many of `n` tiles the module gets per call."""
        if self.device.type != "cpu":
            return max(1, n)
        limit = max(1, PIXELS_PER_THREAD // self.card.input_px**2)
        if self.concurrent == 1:
            return max(1, min(limit * torch.get_num_threads(), n))
        return max(1, min(limit, math.ceil(n / self.concurrent)))

    def _in_batches(self, tiles: np.ndarray, embed: Callable[[Tensor], T], join: Callable[[list[T]], R]) -> Pending[R]:
        """Prepare and embed tiles in small batches on a CPU, and in one on a GPU; `join` gets the embeddings."""
        check_tiles(tiles)

        def call(batch: np.ndarray) -> T:
            with torch.inference_mode(), autocast(self.device):  # which hold for one thread
                return embed(prepare(batch, self.card, self.device))

        size = self.at_once(len(tiles))
        batches = [tiles[start : start + size] for start in range(0, max(len(tiles), 1), size)]
        return start_in_threads(call, batches, self.concurrent, join)

    def appendix(self, pixels: Tensor, grid: int | None = None) -> Tensor:
        """Return values to append to the embeddings, here none: (n, 0), or for parts (n, grid², 0)."""
        return pixels.new_empty(len(pixels), *([] if grid is None else [grid * grid]), 0)

    def forward(self, pixels: Tensor, appendix: Tensor) -> Tensor:
        """Embed normalized pixels."""
        return torch.cat([self.compute("forward", pixels).float(), appendix], dim=1)

    def compute(self, method: str, pixels: Tensor) -> Any:
        """Call a method of the module on normalized pixels, in the runtime of the settings."""
        if settings.runtime == "torch" or self.device.type != "cpu" or len(pixels) == 0:
            # The module itself is called, so that its hooks run.
            return self.module(pixels) if method == "forward" else getattr(self.module, method)(pixels)
        key = method, torch.get_num_threads()
        with TRANSLATION:
            if key not in self.translated:
                self.translated[key] = OnnxNetwork(self.module, method, pixels, self.card.name)
        return self.translated[key](pixels)

    def _normalize(self, pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (self.card.mean, self.card.std))
        return torch.addcmul(-mean / std, pixels, 1 / std)


class MapEncoder(TorchEncoder):
    """Torch encoder whose module has a method `with_map`, see :func:`deepspot.encoders.register`."""

    def encode_parts(self, tiles: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
        """Embed tiles as `encode` does, and in the same pass their grid × grid parts (n, grid², dim)."""
        return self.start(tiles, grid).result()

    def start(self, tiles: np.ndarray, grid: int | None = None) -> Pending[Any]:
        """Begin :meth:`encode`, or with a `grid` :meth:`encode_parts`."""
        if grid is None:
            return super().start(tiles)

        def embed(pixels: Tensor) -> tuple[Tensor, Tensor]:
            appendices = self.appendix(pixels), self.appendix(pixels, grid)
            return self.forward_parts(self.transform(pixels), grid, *appendices)

        def join(embedded: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
            spot, parts = (torch.cat(outputs).cpu().numpy() for outputs in zip(*embedded, strict=True))
            return spot, parts

        return self._in_batches(tiles, embed, join)

    def forward_parts(
        self, pixels: Tensor, grid: int, appendix: Tensor, parts_appendix: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embed normalized pixels and their grid × grid parts."""
        spot, cells = self.compute("with_map", pixels)
        if cells.ndim != 4 or cells.shape[::3] != spot.shape:
            raise InputError(
                f"`with_map` of encoder {self.card.name!r} returned embeddings of shape {tuple(spot.shape)} and a map "
                f"of shape {tuple(cells.shape)}; the map must be (n, rows, columns, {self.card.dim})."
            )
        parts = pool(cells, grid, self.card)
        return torch.cat([spot.float(), appendix], dim=1), torch.cat([parts.float(), parts_appendix], dim=2)


class Pooled(nn.Module):
    """Pool the tokens of a network of timm or transformers to one vector per tile.

    `pooling` is that of the card. Prefix tokens are the class token and registers; registers are not averaged.
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
        """Return embeddings and a map (n, rows, columns, dim) whose average over a part of the tile embeds that part.

        A cell is a position of the last feature map, or a patch token, after the class token for ``"cls+mean"``.
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
        """Return tokens (n, t, d) after the last normalization: class token, registers, patches."""
        if hasattr(self.network, "forward_features"):  # timm
            return self.network.forward_features(pixels)
        return self.network(pixel_values=pixels).last_hidden_state


def prepare(tiles: np.ndarray, card: EncoderCard, device: torch.device) -> Tensor:
    """Convert tiles (n, height, width, 3) in uint8 to RGB in 0 to 1 (n, 3, px, px)."""
    # Contiguous colors are resized twice as fast.
    pixels = torch.from_numpy(resize(tiles, card)).permute(0, 3, 1, 2).contiguous().to(device).float().div_(255)
    if card.resize_as == "float":
        pixels = _resize(pixels, card.resize_px or card.input_px, card.interpolation)
    pixels = F.center_crop(pixels, [card.input_px, card.input_px])
    return pixels.contiguous(memory_format=torch.channels_last)


def resize(tiles: np.ndarray, card: EncoderCard) -> np.ndarray:
    """Resize tiles (n, side, side, 3) if the card resizes 8-bit images; otherwise return them unchanged."""
    side = card.resize_px or card.input_px
    if card.resize_as == "pillow":
        return _with_pillow(tiles, side, card.interpolation)
    if card.resize_as == "uint8":
        # Always on the CPU: only there torchvision interpolates integers, and features must not depend on the device.
        pixels = _resize(torch.from_numpy(tiles).permute(0, 3, 1, 2), side, card.interpolation)
        return pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return tiles


def _resize(pixels: Tensor, side: int, interpolation: str) -> Tensor:
    return F.resize(pixels, [side, side], InterpolationMode(interpolation), antialias=True)


def _with_pillow(tiles: np.ndarray, side: int, interpolation: str) -> np.ndarray:
    from PIL import Image

    if tiles.shape[1:3] == (side, side):
        return tiles
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

    def one(tile: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(tile).resize((side, side), filters[interpolation]))

    with ThreadPoolExecutor(settings.workers) as threads:
        resized = list(threads.map(one, tiles))
    return np.stack(resized) if resized else np.empty((0, side, side, 3), dtype=np.uint8)
