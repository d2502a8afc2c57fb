"""Tiles become pixels of the side that an encoder takes, as the authors of its weights made them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ._card import EncoderCard


def prepare(tiles: np.ndarray, card: EncoderCard, device: torch.device) -> Tensor:
    """RGB in 0 to 1 (n, 3, px, px) of tiles (n, height, width, 3) in uint8."""
    side = card.resize_px or card.input_px
    if card.resize_as == "pillow":
        tiles = _with_pillow(tiles, side, card.interpolation)
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    if card.resize_as == "uint8":
        # On the CPU whatever the device: only there are integers interpolated as such, and features must not differ.
        pixels = _resize(pixels, side, card.interpolation)
    pixels = pixels.to(device).float().div_(255)
    if card.resize_as == "float":
        pixels = _resize(pixels, side, card.interpolation)
    pixels = F.center_crop(pixels, [card.input_px, card.input_px])
    # Convolutions on channels-last memory run twice as fast on CPUs, and on tensor cores.
    return pixels.contiguous(memory_format=torch.channels_last)


def _resize(pixels: Tensor, side: int, interpolation: str) -> Tensor:
    return F.resize(pixels, [side, side], InterpolationMode(interpolation), antialias=True)


def _with_pillow(tiles: np.ndarray, side: int, interpolation: str) -> np.ndarray:
    from PIL import Image

    if tiles.shape[1:3] == (side, side):
        return tiles
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resized = [np.asarray(Image.fromarray(tile).resize((side, side), filters[interpolation])) for tile in tiles]
    return np.stack(resized) if resized else np.empty((0, side, side, 3), dtype=np.uint8)
