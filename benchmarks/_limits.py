"""What the hardware allows: rates of matrix products and of decoding, measured here, and the work that there is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _timing import wait
from torch.utils.flop_counter import FlopCounterMode

from deepspot._device import autocast
from deepspot.encoders._torch import TorchEncoder

SIDE = 2048


def flops_of_tile(encoder: TorchEncoder) -> float:
    """Floating-point operations of the backbone for one tile."""
    pixels = torch.zeros(1, 3, encoder.card.input_px, encoder.card.input_px, device=encoder.device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder.module(encoder.transform(pixels))
    return float(counter.get_total_flops())


@torch.inference_mode()
def flops_per_second(device: torch.device, times: int = 20) -> float:
    """Of a product of large matrices, in the precision in which the encoder computes: the best of several."""
    a, b = torch.rand(2, SIDE, SIDE, device=device)
    seconds = []
    with autocast(device):
        for _ in range(times):
            wait(device)
            start = time.perf_counter()
            a @ b
            wait(device)
            seconds.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)


def decode(array: Any, blocks: list[tuple[int, int]], side: int) -> None:
    """Decode square blocks of a zarr array (3, height, width), one after the other, and do nothing with them."""
    for row, column in blocks:
        np.asarray(array[:, row * side : (row + 1) * side, column * side : (column + 1) * side])
