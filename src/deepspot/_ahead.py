"""Work that is done in a thread while what it made before is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
END = object()


def ahead(items: Iterable[T], n: int, *, alone: bool = False) -> Generator[T, None, None]:
    """Run through an iterable in a thread of its own, `n` items ahead. Its errors are raised here.

    Torch has all its threads there too, unless it is to compute `alone`, beside others that have them. The thread ends
    with the iterator, whether that is exhausted, closed or left by an error.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "deepspot-ahead", initializer=_alone if alone else None) as thread:
        coming: deque[Future[Any]] = deque(thread.submit(next, iterator, END) for _ in range(n))
        try:
            while (item := coming.popleft().result()) is not END:
                coming.append(thread.submit(next, iterator, END))
                yield item
        finally:
            for future in coming:
                future.cancel()


def _alone() -> None:
    """Let this thread compute by itself: a team of its own would wait for the cores that others are busy on."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # or torch would set the number at the first call
    threadpool_limits(1, user_api="openmp")
