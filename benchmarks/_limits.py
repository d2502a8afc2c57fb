"""What the hardware allows: rates of matrix products and of decoding, measured here, and the work that there is."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from _timing import wait
from torch.utils.flop_counter import FlopCounterMode

import deepspot as ds
from deepspot._core.compute import autocast
from deepspot.encoders._torch import TorchEncoder

SIDE, REPEATS = 2048, 3


def flops_of_tile(encoder: TorchEncoder) -> float:
    """Floating-point operations of the backbone for one tile."""
    pixels = torch.zeros(1, 3, encoder.card.input_px, encoder.card.input_px, device=encoder.device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder.module(encoder.transform(pixels))
    return float(counter.get_total_flops())


@torch.inference_mode()
def flops_per_second(device: torch.device, times: int = 8) -> float:
    """Of products of large matrices, in the precision in which the encoder computes: the best of several."""
    a, b = torch.rand(2, SIDE, SIDE, device=device)
    with autocast(device):
        dtype = (a @ b).dtype
    a, b, seconds = a.to(dtype), b.to(dtype), []
    for _ in range(times):
        wait(device)
        start = time.perf_counter()
        for _ in range(REPEATS):
            a @ b
        wait(device)
        seconds.append((time.perf_counter() - start) / REPEATS)
    return 2 * SIDE**3 / min(seconds)


def decode(array: Any, blocks: list[tuple[int, int]], side: int) -> None:
    """Decode square blocks of a zarr array (3, height, width), in as many threads as we do, and keep none."""

    def one(block: tuple[int, int]) -> int:
        (row, column) = block
        return np.asarray(array[:, row * side : (row + 1) * side, column * side : (column + 1) * side]).nbytes

    with ThreadPoolExecutor(ds.settings.workers) as threads:
        sum(threads.map(one, blocks))
