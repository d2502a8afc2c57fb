"""Device, precision, background threads and row buffers."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from deepspot.errors import InputError

from .settings import settings

if TYPE_CHECKING:
    import torch
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


def _forget_threads() -> None:
    """Make torch and dask work in a forked process, where they would wait forever for the threads of its parent."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "dask.threaded" in sys.modules:
        threaded: Any = sys.modules["dask.threaded"]
        threaded.default_pool = None
        threaded.pools.clear()
    _compute_threads.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return `device`, by default the one in the settings, else CUDA, MPS or CPU in this order."""
    import torch

    requested = device if device is not None else settings.device
    # Called only if needed: looking for CUDA opens its libraries.
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if requested is None:
        return torch.device(next((name for name, found in available.items() if found()), "cpu"))
    try:
        chosen = torch.device(requested)
    except RuntimeError as error:
        raise InputError(f"`device` must be 'cpu', 'cuda', 'cuda:<n>' or 'mps', got {requested!r}.") from error
    if chosen.type in available and not available[chosen.type]():
        raise InputError(
            f"`device={requested!r}` is not available here. Leave `device` out to choose one automatically."
        )
    return chosen


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return a context with half precision on CUDA, and with float32 elsewhere."""
    import torch

    if device.type != "cuda":
        return nullcontext()  # half precision is 100 times slower on CPUs without the instructions
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=dtype)


def prefetch(items: Iterable[T], n: int) -> Generator[T, None, None]:
    """Iterate in a background thread, `n` items in advance. Errors are raised in the calling thread.

    The thread ends when the generator is exhausted or closed.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "deepspot-prefetch") as thread:
        pending: deque[Future[Any]] = deque(thread.submit(next, iterator, end) for _ in range(n))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(thread.submit(next, iterator, end))
                yield item
        finally:
            for future in pending:
                future.cancel()


class Pending(Generic[R]):
    """Result of calls that may still run in threads."""

    def __init__(self, calls: list[Future[Any]], join: Callable[[list[Any]], R]) -> None:
        self.calls, self.join = calls, join

    def result(self) -> R:
        """Wait for all calls and return their joined results; after an error or interruption no other call begins."""
        try:
            return self.join([call.result() for call in self.calls])
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Cancel the calls that have not begun."""
        for call in self.calls:
            call.cancel()


def start_in_threads(
    function: Callable[[T], Any], items: Sequence[T], n: int, join: Callable[[list[Any]], R]
) -> Pending[R]:
    """Call a function for all items in `n` threads, in which torch uses one core; `join` gets the list of the results.

    Threads with items of their own do not wait for each other as threads that share the operations of one item do.
    All callers share the threads. With one thread, or for a single item, the calls are made here, with all cores.
    """
    if n > 1 and len(items) > 1:
        threads = _compute_threads(n)
        return Pending([threads.submit(function, item) for item in items], join)
    done: list[Future[Any]] = []
    for item in items:
        done.append(Future())
        done[-1].set_result(function(item))
    return Pending(done, join)


@cache
def _compute_threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "deepspot-compute", initializer=_limit_threads)


def _limit_threads() -> None:
    """Limit torch to one core in this thread."""
    import torch

    torch.get_num_threads()  # otherwise torch sets the number at its first call
    _openmp().limit(limits=1)


@cache
def _openmp() -> ThreadpoolController:
    """Return the OpenMP libraries of this process, which takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")


class RowBuffer:
    """First-in, first-out buffer of `n` array rows, added and removed in batches of any size."""

    def __init__(self) -> None:
        self.arrays: deque[np.ndarray] = deque()
        self.n = 0

    def put(self, array: np.ndarray) -> None:
        """Add rows."""
        self.arrays.append(array)
        self.n += len(array)

    def take(self, n: int) -> np.ndarray:
        """Remove and return the first `n` rows, or all if there are fewer. The buffer must not be empty."""
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
