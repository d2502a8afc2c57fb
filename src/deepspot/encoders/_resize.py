"""Tiles become pixels of the side that an encoder takes, as the authors of its weights made them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from deepspot._core.settings import settings

from ._card import EncoderCard


def prepare(tiles: np.ndarray, card: EncoderCard, device: torch.device) -> Tensor:
    """RGB in 0 to 1 (n, 3, px, px) of tiles (n, height, width, 3) in uint8."""
    pixels = torch.from_numpy(resize(tiles, card)).permute(0, 3, 1, 2).to(device).float().div_(255)
    if card.resize_as == "float":
        pixels = _resize(pixels, card.resize_px or card.input_px, card.interpolation)
    pixels = F.center_crop(pixels, [card.input_px, card.input_px])
    # Convolutions on channels-last memory run twice as fast on CPUs, and on tensor cores.
    return pixels.contiguous(memory_format=torch.channels_last)


def resize(tiles: np.ndarray, card: EncoderCard) -> np.ndarray:
    """Tiles (n, side, side, 3) in uint8 as the encoder wants them resized, if that is done on 8-bit images."""
    side = card.resize_px or card.input_px
    if card.resize_as == "pillow":
        return _with_pillow(tiles, side, card.interpolation)
    if card.resize_as == "uint8":
        # On the CPU whatever the device: only there are integers interpolated as such, and features must not differ.
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
