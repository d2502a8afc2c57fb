"""Runner of slides on a Dask cluster: one slide at a time on each worker, with the settings of the calling process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot._core.compute import choose_device
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot.errors import InputError, InputTypeError

from .folder import LOCK
from .slide import Job, SlideResult, one_line, run_slide

if TYPE_CHECKING:
    from distributed import Client, Future

    from deepspot.encoders import Encoder
    from deepspot.models import Model

POLL_SECONDS = 5.0  # interval to look for new workers
MAX_ENCODER_MB = 50

# Settings and number of threads are global to a process, and a scheduler that has lost a worker may send two slides to
# another one.
_one_at_a_time = threading.Lock()


class DaskRunner:
    """Run jobs on the workers of a Dask cluster."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.settings = asdict(settings) | {"progress": False}  # the calling process shows the progress of the cohort

    def workers(self) -> int:
        """Return the number of slides at a time."""
        return len(self.client.nthreads())

    def check(self, job: Job) -> None:
        """Raise if workers cannot run a job such as this one."""
        if not self.workers():
            logger.info("Waiting for the first worker of the scheduler.")
        problem = self.client.submit(find_problem, job, self.settings, pure=False).result()
        if problem is not None:
            raise InputError(
                f"The workers cannot run this: {problem}. Register a custom encoder on every worker "
                "(`dask worker --preload file.py`), or pass it as an object with `encoder=`."
            )

    def run(self, jobs: Sequence[Job]) -> Iterator[SlideResult]:
        """Run the jobs, and yield each result when it is ready."""
        waiting = deque(sorted(jobs, key=lambda job: -job.size()))  # largest first, so that workers end together
        running: dict[Future, tuple[str, str | None]] = {}
        try:
            while waiting or running:
                self._submit(waiting, running)
                for future in self._ended(list(running)):
                    yield _result(future, running.pop(future)[0])
        finally:
            if self.client.status == "running":
                self.client.cancel(list(running))

    def _ended(self, running: list[Future]) -> list[Future]:
        """Wait for the next result, but not longer than the polling interval."""
        from concurrent.futures import CancelledError

        from distributed import wait

        try:
            return list(wait(running, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        except CancelledError as error:
            if self.client.status != "running":
                raise ConnectionError(
                    "The connection to the Dask scheduler is lost. Start the cohort again: finished slides are kept."
                ) from error
            return [future for future in running if future.cancelled()]

    def _submit(self, waiting: deque[Job], running: dict[Future, tuple[str, str | None]]) -> None:
        """Send a job to each idle worker; if a worker is lost, another one takes over its job."""
        from uuid import uuid4

        known = list(self.client.nthreads())
        busy = {worker for _, worker in running.values()}
        idle: list[str | None] = [worker for worker in known if worker not in busy]
        if not known and not running:
            idle = [None]  # a waiting task makes an adaptive cluster start a worker
        for worker in idle[: len(waiting)]:
            job = waiting.popleft()
            key = f"deepspot-{job.slide}-{uuid4().hex}"  # shown in the Dask dashboard
            where: dict[str, Any] = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
            future = self.client.submit(work, job, self.settings, pure=False, retries=0, key=key, **where)
            running[future] = (job.slide, worker)


def _result(future: Future, slide: str) -> SlideResult:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        error = "KilledWorker: workers died while they worked on it. Not enough memory?"
    except Exception as other:  # noqa: BLE001 - an error of one slide must not stop the others
        error = one_line(other)
    return SlideResult(slide, None, error=error)


@contextmanager
def connected(client: Client | str) -> Iterator[Client]:
    """Return a client as it is, or connect to the scheduler at an address."""
    from distributed import Client

    if isinstance(client, Client):
        if client.asynchronous:
            raise InputTypeError("`client` is asynchronous. Pass a synchronous `distributed.Client`, or an address.")
        yield client
        return
    if not isinstance(client, str):
        raise InputTypeError(
            f"`client` must be a `distributed.Client` or the address of a scheduler, got {type(client)}."
        )
    try:
        opened = Client(client)
    except (OSError, ValueError) as error:
        raise InputError(f"No Dask scheduler answers at {client!r}: {one_line(error)}") from error
    with opened:
        yield opened


@contextmanager
def local_workers(workers: int | None) -> Iterator[Client | None]:
    """Start worker processes that share the cores of this machine; none without a number."""
    if workers is None:
        yield None
        return
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    threads = max(1, CPU_COUNT // workers)
    cluster = LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=":0")
    try:
        with Client(cluster) as client:
            yield client
    finally:
        # All results are written. On a busy machine Dask gives up waiting for the ends of the workers.
        with suppress(TimeoutError):
            cluster.close()


def check_portable(encoder: str | Encoder | None) -> None:
    """Raise if an encoder cannot be pickled, or is too large to send with every slide."""
    from distributed.protocol.pickle import dumps

    if encoder is None or isinstance(encoder, str):
        return
    hint = "Register it on every worker (`dask worker --preload file.py`), and pass its name."
    try:
        size = len(dumps(encoder)) / 1e6
    except Exception as error:  # methods of the object may raise any error
        raise InputTypeError(f"The encoder cannot be sent to workers ({one_line(error)}). {hint}") from error
    if size > MAX_ENCODER_MB:
        raise InputError(f"The encoder takes {size:.0f} MB, too much to send with every slide. {hint}")


def work(job: Job, options: dict[str, Any]) -> SlideResult:
    """Run a job on a worker, with the settings of the caller."""
    with _one_at_a_time, use_settings(options, _threads()):
        try:
            model = _load(job.folder.model, job.options.model)
        except Exception as error:  # noqa: BLE001 - an error of one slide must not stop the others
            return SlideResult(job.slide, 0.0, error=one_line(error))
        return run_slide(job, model)


def find_problem(job: Job, options: dict[str, Any]) -> str | None:
    """Return why a worker cannot run the jobs of this cohort, if so."""
    out = job.folder.path
    if not (out / LOCK).exists():
        return f"there is no folder {str(out)!r}. Workers and this process must share `out` and the slides"
    with _one_at_a_time, use_settings(options, _threads()):
        try:
            choose_device(job.device)
            _load(job.folder.model, job.options.model).get_encoder(job.encoder)
        except Exception as error:  # noqa: BLE001 - becomes part of the message
            return one_line(error)
    return None


@lru_cache(maxsize=1)
def _load(bundle: Path, fingerprint: str) -> Model:
    from deepspot.models._registry import read_model

    model = read_model(bundle)
    if model.fingerprint != fingerprint:
        raise InputError(f"{str(bundle)!r} is no longer the model of this cohort. Start the cohort again.")
    return model


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


@contextmanager
def use_settings(options: dict[str, Any], threads: int) -> Iterator[None]:
    """Use other settings and another number of threads temporarily."""
    import dask
    import torch

    before, threads_before = dict(vars(settings)), torch.get_num_threads()
    try:
        for name, value in options.items():
            setattr(settings, name, value)
        settings.workers = threads
        torch.set_num_threads(threads)
        # Otherwise dask sends the blocks of an image to the scheduler, as separate tasks.
        with dask.config.set(scheduler="threads", num_workers=threads):
            yield
    finally:
        torch.set_num_threads(threads_before)
        for name, value in before.items():
            setattr(settings, name, value)
