import os
import subprocess
import sys
import threading

import pytest

from deepspot._core.compute import in_threads, overlapped

CODE = """
import os, signal
import dask.array as da
import torch
from deepspot._core.compute import in_threads

def work():
    assert in_threads(str, range(4), 2) == list("0123")
    for workers in ({}, {"num_workers": 2}):
        da.ones(4, chunks=1).sum().compute(**workers)
    torch.ones(500, 500) @ torch.ones(500, 500)

torch.set_num_threads(2)
work()
if os.fork() == 0:
    signal.alarm(60)
    work()
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forked processes")
def test_a_forked_process_does_not_wait_for_threads_of_its_parent():
    assert subprocess.run([sys.executable, "-c", CODE], timeout=120).returncode == 0


def test_overlapped_calls_keep_their_order():
    both = threading.Barrier(2, timeout=60)

    def call(item):
        both.wait()  # returns only if two calls are made at the same time
        return 10 * item

    assert list(overlapped(call, range(4), 2)) == [0, 10, 20, 30]
    assert list(overlapped(str, range(3), 1)) == ["0", "1", "2"]


def test_overlapped_calls_raise_their_errors():
    calls = overlapped(lambda item: 1 // item, (1, 1, 0, 1), 2)
    assert next(calls) == 1
    with pytest.raises(ZeroDivisionError):
        list(calls)


def test_threads_take_items_of_several_callers():
    def nested(item):
        return in_threads(str, (item, item + 1, item + 2), 2)

    assert list(overlapped(nested, (0, 10, 20), 2)) == [["0", "1", "2"], ["10", "11", "12"], ["20", "21", "22"]]
