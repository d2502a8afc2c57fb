"""Cohorts on Dask workers in separate processes."""

import os
import signal
import threading
import time
from contextlib import nullcontext

import anndata
import numpy as np
import pandas as pd
import pytest
from spatialdata import read_zarr

import deepspot as ds
from deepspot.cohort._run import dask_runner
from deepspot.cohort._run.dask_runner import use_settings, work
from deepspot.cohort._run.folder import Folder
from deepspot.cohort._run.slide import Job, SlideOptions, SlideResult


@pytest.fixture(scope="module")
def client():
    import dask

    # A slide during which a worker dies is not repeated.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), dask_runner.local_workers(2) as client:
        yield client


def job_of(name, out):
    return Job(name, "nowhere", Folder(out), SlideOptions("m", 1.0, 1.0, "square", None, True, None))


def test_workers_that_are_slow_to_end_are_no_error(monkeypatch):
    import distributed

    class Slow:
        def __init__(self, **_):
            pass

        def close(self):
            raise TimeoutError

    monkeypatch.setattr(distributed, "LocalCluster", Slow)
    monkeypatch.setattr(distributed, "Client", nullcontext)
    with dask_runner.local_workers(2) as client:
        assert isinstance(client, Slow)
    with pytest.raises(OSError, match="full"), dask_runner.local_workers(2):
        raise OSError("disk full")


def test_workers_and_this_process_agree(run, client, manifest, files, tmp_path):
    rows = pd.concat([manifest, pd.DataFrame({"path": [str(files / "white.tiff")], "patient": ["P3"]})])
    here = run(rows, out=tmp_path / "here")
    there = run(rows, out=tmp_path / "there", client=client)
    pd.testing.assert_frame_equal(here.drop(columns="seconds"), there.drop(columns="seconds"))
    assert there["status"].tolist() == ["done", "done", "failed"]
    for name in ("P1_S1", "P2_S1"):
        ours, theirs = (
            read_zarr(tmp_path / where / "slides" / f"{name}.zarr").tables["deepspot_spots"]
            for where in ("here", "there")
        )
        np.testing.assert_allclose(ours.X, theirs.X, rtol=1e-3, atol=1e-3)
        assert ours.obs["spot_id"].tolist() == theirs.obs["spot_id"].tolist()
    ours, theirs = (anndata.read_h5ad(tmp_path / where / "pseudobulk.h5ad") for where in ("here", "there"))
    np.testing.assert_allclose(ours.X, theirs.X, rtol=1e-4)
    pd.testing.assert_frame_equal(ours.obs, theirs.obs)
    # This process skips slides that workers have finished.
    pd.testing.assert_frame_equal(run(rows[:2], out=tmp_path / "there"), there[:2])


def test_scheduler_by_address(run, client, manifest):
    assert run(manifest[:1], client=client.scheduler.address)["status"].tolist() == ["done"]
    assert client.status == "running"


class KillsItsWorker:
    """Encoder that kills the worker on a dark slide."""

    def __init__(self, real):
        self.real, self.card, self.fingerprint = real, real.card, real.fingerprint

    def to(self, device):
        return self

    def encode(self, tiles):
        if tiles.mean() < 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.real.encode(tiles)


def test_worker_that_dies_costs_one_slide(run, client, manifest, mean_color, write_tiff, tmp_path):
    write_tiff(tmp_path / "dark.tiff", np.full((690, 890, 3), 20, dtype=np.uint8))
    rows = pd.concat([pd.DataFrame({"path": [str(tmp_path / "dark.tiff")], "patient": ["P3"]}), manifest])
    runs = run(rows, client=client, encoder=KillsItsWorker(mean_color()))
    assert runs["status"].tolist() == ["failed", "done", "done"]
    assert list((tmp_path / "out" / ".work").glob("*.started")) == []
    assert runs.loc["dark", "error"].startswith("KilledWorker: ")


def test_settings_reach_the_workers(client, monkeypatch, tmp_path):
    monkeypatch.setattr(ds.settings, "batch_size", 7)
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path)
    job = job_of("a", tmp_path)
    asked = dask_runner.DaskRunner(client).settings
    with use_settings(asked | {"seed": 3}, 1):
        assert (ds.settings.batch_size, ds.settings.seed) == (7, 3)
    assert ds.settings.seed == 0
    assert asked["cache_dir"] == tmp_path
    assert asked["progress"] is False
    outcome = client.submit(work, job, asked, pure=False).result()
    assert isinstance(outcome, SlideResult)
    assert "is not a model bundle" in outcome.error


def test_workers_use_the_threads_they_were_given():
    import torch

    before = torch.get_num_threads(), ds.settings.workers
    with use_settings({"workers": 7}, 1):
        assert (torch.get_num_threads(), ds.settings.workers) == (1, 1)
    assert (torch.get_num_threads(), ds.settings.workers) == before


def test_an_encoder_missing_on_workers_is_an_error_before_any_slide(run, client, tmp_path):
    with pytest.raises(ValueError, match="The workers cannot run this: MissingKeyError: Key `'mean_color'` not found"):
        run(client=client, encoder=None)
    assert list((tmp_path / "out" / "slides").iterdir()) == []


def test_encoder_that_cannot_be_sent(encoder):
    encoder_with_a_lock = type("Locked", (), {"lock": None})()
    encoder_with_a_lock.lock = __import__("threading").Lock()
    with pytest.raises(TypeError, match="cannot be sent to workers"):
        dask_runner.check_portable(encoder_with_a_lock)
    heavy = type("Heavy", (), {})()
    heavy.weights = np.zeros(60_000_000, dtype=np.uint8)
    with pytest.raises(ValueError, match="takes 60 MB"):
        dask_runner.check_portable(heavy)
    dask_runner.check_portable("lite0")
    dask_runner.check_portable(encoder)


def test_a_lost_scheduler_is_not_a_failure_of_slides(monkeypatch, tmp_path):
    from distributed import Client, LocalCluster

    monkeypatch.setattr(dask_runner, "work", wait_a_little)
    monkeypatch.setattr(dask_runner, "POLL_SECONDS", 0.5)
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    jobs = [job_of(name, tmp_path) for name in "ab"]
    with Client(cluster.scheduler_address, timeout=1) as client:
        threading.Timer(0.3, cluster.close).start()
        with pytest.raises(OSError, match=r"lost|closed"):
            list(dask_runner.DaskRunner(client).run(jobs))


def wait_a_little(*_, **__):
    time.sleep(1)


def test_no_scheduler():
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ValueError, match=r"No Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"),
        dask_runner.connected("tcp://127.0.0.1:9"),
    ):
        pass
