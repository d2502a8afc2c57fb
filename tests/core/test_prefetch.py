import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepspot._core.compute import RowBuffer, prefetch


def names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("deepspot-prefetch")]


def test_items_are_in_order():
    assert list(prefetch(range(20), 3)) == list(range(20))
    assert list(prefetch([], 3)) == []
    assert list(prefetch([None, None], 1)) == [None, None]


def test_items_are_computed_in_a_thread_up_to_n_in_advance():
    begun, where = [], set()

    def work():
        for item in range(10):
            begun.append(item)
            where.add(threading.current_thread())
            yield item

    coming = prefetch(work(), 2)
    assert next(coming) == 0
    deadline = time.monotonic() + 10
    while len(begun) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert begun == [0, 1, 2]
    assert where.isdisjoint({threading.current_thread()})
    coming.close()
    assert not names()


def test_errors_are_raised_in_the_calling_thread():
    def broken():
        yield 1
        raise KeyError("lost")

    coming = prefetch(broken(), 2)
    assert next(coming) == 1
    with pytest.raises(KeyError, match="lost"):
        next(coming)
    assert not names()


def test_the_thread_ends_after_an_error_of_the_caller():
    def use():
        for item in prefetch(iter(int, 1), 2):  # zeros without end
            raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        use()
    assert not names()


@given(st.lists(st.integers(0, 9), min_size=1), st.data())
def test_row_buffer_returns_rows_in_order_for_any_batch_sizes(sizes, data):
    rows = np.arange(sum(sizes) * 2).reshape(-1, 2)
    buffer, taken = RowBuffer(), []
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        buffer.put(part)
        if buffer.n:
            n = data.draw(st.integers(1, buffer.n))
            taken.append(buffer.take(n))
            assert len(taken[-1]) == n
    if buffer.n:
        taken.append(buffer.take(buffer.n))
    assert buffer.n == 0
    np.testing.assert_array_equal(np.concatenate([rows[:0], *taken]), rows)
