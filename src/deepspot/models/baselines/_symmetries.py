"""The eight symmetries of a square: quarter turns, with and without a flip."""

from __future__ import annotations

import torch
from torch import Tensor

N_SYMMETRIES = 8


def turn(images: Tensor, number: int) -> Tensor:
    """Images (..., side, side) in one of the eight positions; 0 leaves them as they are."""
    turned = torch.rot90(images, number % 4, (-2, -1))
    return turned.flip(-1) if number >= 4 else turned


def turn_each(images: Tensor, numbers: Tensor) -> Tensor:
    """Every image (n, channels, side, side) in a position of its own."""
    return torch.stack([turn(image, int(number)) for image, number in zip(images, numbers, strict=True)])
