"""Where work is computed: device, precision and background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from deepspot.errors import InputError

from .settings import settings

if TYPE_CHECKING:
    import torch


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the asked device, else the one in the settings, else CUDA, MPS, CPU in this order."""
    import torch

    asked = device if device is not None else settings.device
    if asked is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(asked)
    except RuntimeError as error:
        raise InputError(f"`device` must be 'cpu', 'cuda', 'cuda:<n>' or 'mps', got {asked!r}.") from error
    missing = (chosen.type == "cuda" and not torch.cuda.is_available()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise InputError(f"`device={asked!r}` is not available here. Leave `device` out to choose automatically.")
    return chosen


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Half precision where the hardware is built for it (CUDA); plain float32 elsewhere."""
    import torch

    if device.type != "cuda":
        return nullcontext()  # half precision is 100 times slower on CPUs without the instructions
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=dtype)


T = TypeVar("T")
END = object()


def prefetch(items: Iterable[T], n: int, *, alone: bool = False) -> Generator[T, None, None]:
    """Run through an iterable in a thread of its own, `n` items ahead. Its errors are raised here.

    Torch has all its threads there too, unless it is to compute `alone`, beside others that have them. The thread ends
    with the iterator, whether that is exhausted, closed or left by an error.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "deepspot-prefetch", initializer=_limit_threads if alone else None) as thread:
        coming: deque[Future[Any]] = deque(thread.submit(next, iterator, END) for _ in range(n))
        try:
            while (item := coming.popleft().result()) is not END:
                coming.append(thread.submit(next, iterator, END))
                yield item
        finally:
            for future in coming:
                future.cancel()


def _limit_threads() -> None:
    """Let this thread compute by itself: a team of its own would wait for the cores that others are busy on."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # or torch would set the number at the first call
    threadpool_limits(1, user_api="openmp")


class RowBuffer:
    """Rows of arrays that are put in at one end and taken out at the other, in whatever portions.

    Attributes
    ----------
    n
        How many rows there are.
    """

    def __init__(self) -> None:
        self.arrays: deque[np.ndarray] = deque()
        self.n = 0

    def put(self, array: np.ndarray) -> None:
        """Add rows."""
        self.arrays.append(array)
        self.n += len(array)

    def take(self, n: int) -> np.ndarray:
        """Take the first `n` rows, at most all that there are, and at least one."""
        n = min(n, self.n)
        self.n -= n
        taken = []
        while n:
            first = self.arrays.popleft()
            if len(first) > n:
                self.arrays.appendleft(first[n:])
            taken.append(first[:n])
            n -= len(taken[-1])
        return taken[0] if len(taken) == 1 else np.concatenate(taken)
