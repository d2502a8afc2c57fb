"""Work that is done in a thread while what it made before is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
END = object()


def ahead(items: Iterable[T], n: int) -> Generator[T, None, None]:
    """Run through an iterable in a thread of its own, `n` items ahead. Its errors are raised here.

    The thread ends with the iterator, whether that is exhausted, closed or left by an error.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "deepspot-ahead") as thread:
        coming: deque[Future[Any]] = deque(thread.submit(next, iterator, END) for _ in range(n))
        try:
            while (item := coming.popleft().result()) is not END:
                coming.append(thread.submit(next, iterator, END))
                yield item
        finally:
            for future in coming:
                future.cancel()
