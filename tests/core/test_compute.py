import os
import subprocess
import sys

import pytest

CODE = """
import os, signal
import dask.array as da
import torch
import deepspot._core.compute

def work():
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
