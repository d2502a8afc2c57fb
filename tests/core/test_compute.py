import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from deepspot._core.compute import start_in_threads

CODE = """
import os, signal
import dask.array as da
import torch
from deepspot._core.compute import start_in_threads

def work():
    assert start_in_threads(str, range(4), 2, "".join).result() == "0123"
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


def test_two_groups_of_calls_share_the_threads():
    both = threading.Barrier(2, timeout=60)

    def call(item):
        both.wait()  # returns only if two calls are made at the same time
        return item

    first, second = (start_in_threads(call, range(at, at + 3), 2, sum) for at in (0, 10))
    assert (second.result(), first.result()) == (33, 3)


def test_calls_in_one_thread_are_made_at_once():
    made = []
    pending = start_in_threads(made.append, range(3), 1, len)
    assert made == [0, 1, 2]
    assert pending.result() == 3


def test_after_an_error_no_other_call_begins():
    made = []

    def call(item):
        made.append(item)
        time.sleep(0.02)
        return 1 // item

    pending = start_in_threads(call, range(50), 2, list)
    with pytest.raises(ZeroDivisionError):
        pending.result()
    assert len(made) < 10


def test_canceled_calls_do_not_begin():
    go, made = threading.Event(), []

    def call(item):
        go.wait(60)
        made.append(item)

    pending = start_in_threads(call, range(50), 2, list)
    pending.cancel()
    go.set()
    with pytest.raises(CancelledError):
        pending.result()
    assert len(made) <= 2
