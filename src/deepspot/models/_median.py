"""The median of an ensemble, by comparing whole arrays: ten times as fast on a CPU as number by number."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

# Numbers of one member that are compared at once: they and their rivals stay in the cache.
AT_ONCE = 2**15


def median(members: Tensor) -> Tensor:
    """Median of (..., m, width) over its members (..., width); of an even number the lower one in the middle.

    As :func:`torch.median`, but for the gradient where members agree: they share it.
    """
    return _Median.apply(members)


class _Median(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, members: Tensor) -> Tensor:
        flat = members.reshape(-1, *members.shape[-2:])
        found = flat.new_empty(len(flat), flat.shape[-1])
        rows = max(1, AT_ONCE // flat.shape[-1]) if flat.device.type == "cpu" else max(1, len(flat))
        for at in range(0, len(flat), rows):
            found[at : at + rows] = _middle(list(flat[at : at + rows].unbind(1)))
        found = found.reshape(*members.shape[:-2], members.shape[-1])
        ctx.save_for_backward(members, found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        members, found = ctx.saved_tensors
        chosen = (members == found.unsqueeze(-2)).to(gradient.dtype)
        return chosen * (gradient / chosen.sum(-2)).unsqueeze(-2)


def _middle(members: list[Tensor]) -> Tensor:
    for low, high, wants_low, wants_high in _comparisons(len(members)):
        lower = torch.minimum(members[low], members[high]) if wants_low else members[low]
        higher = torch.maximum(members[low], members[high]) if wants_high else members[high]
        members[low], members[high] = lower, higher
    return members[(len(members) - 1) // 2]


@cache
def _comparisons(n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Batcher's odd-even merge sort of `n` numbers, without what the middle one does not depend on.

    Each comparison puts the smaller of two in the first place and the larger in the second, as far as either is wanted.
    """
    network, block = [], 1
    while block < n:
        step = block
        while step:
            for first in range(step % block, n - step, 2 * step):
                for low in range(first, min(first + step, n - step)):
                    if low // (2 * block) == (low + step) // (2 * block):
                        network.append((low, low + step))
            step //= 2
        block *= 2
    wanted, kept = {(n - 1) // 2}, []
    for low, high in reversed(network):
        if wanted & {low, high}:
            kept.append((low, high, low in wanted, high in wanted))
            wanted |= {low, high}
    return tuple(reversed(kept))
