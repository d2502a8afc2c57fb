"""Slides on a Dask cluster: each worker does one at a time, with the settings of the process that asks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    from deepspot.models import DeepSpot

# Workers come and go: so often is looked whether there is one without work.
POLL_SECONDS = 5.0
LARGEST_ENCODER_MB = 50

# Settings and the number of threads are those of a process. A scheduler that has lost a worker may give another one
# two slides.
_one_at_a_time = threading.Lock()


class DaskRunner:
    """Run jobs on the workers of a Dask cluster."""

    def __init__(self, client: Client) -> None:
        self.client = client
        # What is shown here is the progress over the cohort.
        self.settings = asdict(settings) | {"progress": False}

    def workers(self) -> int:
        """How many slides are worked on at once."""
        return len(self.client.nthreads())

    def check(self, job: Job) -> None:
        """Raise if workers cannot do a job such as this, before any is sent."""
        if not self.workers():
            logger.info("Waiting for a first worker of the scheduler at %s.", self.client.scheduler.address)  # type: ignore[union-attr]
        why = self.client.submit(refusal, job, self.settings, pure=False).result()
        if why is not None:
            raise InputError(
                f"The workers cannot do this: {why}. An encoder of your own has to be registered on every worker "
                "(`dask worker --preload file.py`), or passed as an object with `encoder=`."
            )

    def run(self, jobs: Sequence[Job]) -> Iterator[SlideResult]:
        """Do the jobs, and tell of each when it has come to its end."""
        waiting = deque(sorted(jobs, key=lambda job: -job.size()))  # so that no long one is left over at the end
        running: dict[Future, tuple[str, str | None]] = {}
        try:
            while waiting or running:
                self._fill(waiting, running)
                for future in self._ended(list(running)):
                    yield self._result(future, running.pop(future)[0])
        finally:
            if self.client.status == "running":
                self.client.cancel(list(running))

    def _ended(self, running: list[Future]) -> list[Future]:
        """Those that have come to an end, none if that takes long."""
        from concurrent.futures import CancelledError

        from distributed import wait

        try:
            return list(wait(running, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        except CancelledError as error:
            if self.client.status != "running":
                raise ConnectionError(
                    "The connection to the Dask scheduler is lost. Start the cohort again: what is finished stays."
                ) from error
            return [future for future in running if future.cancelled()]

    def _fill(self, waiting: deque[Job], running: dict[Future, tuple[str, str | None]]) -> None:
        """Give every worker without a slide one; a slide whose worker is lost goes to any other."""
        from uuid import uuid4

        known = list(self.client.nthreads())
        busy = {worker for _, worker in running.values()}
        idle: list[str | None] = [worker for worker in known if worker not in busy]
        if not known and not running:
            idle = [None]  # a task that waits is what makes an adaptive cluster start a worker
        for worker in idle[: len(waiting)]:
            job = waiting.popleft()
            key = f"deepspot-{job.slide}-{uuid4().hex}"  # the dashboard of Dask shows it
            where: dict[str, Any] = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
            future = self.client.submit(work, job, self.settings, pure=False, retries=0, key=key, **where)
            running[future] = (job.slide, worker)

    def _result(self, future: Future, slide: str) -> SlideResult:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker:
            error = "KilledWorker: workers died while they worked on it. Not enough memory?"
            return SlideResult(slide, None, error=error)
        except Exception as error:  # noqa: BLE001 - as for all that goes wrong with a slide
            return SlideResult(slide, None, error=one_line(error))


@contextmanager
def connected(client: Client | str) -> Iterator[Client]:
    """A client as it is, or one to the scheduler at an address for as long as it is needed."""
    from distributed import Client

    if isinstance(client, Client):
        if client.asynchronous:
            raise InputTypeError("`client` is asynchronous. Pass a `distributed.Client` that is not, or an address.")
        yield client
        return
    if not isinstance(client, str):
        raise InputTypeError(
            f"`client` must be a `distributed.Client` or the address of a scheduler, got {type(client)}."
        )
    try:
        ours = Client(client)
    except (OSError, ValueError) as error:
        raise InputError(f"No Dask scheduler answers at {client!r}: {one_line(error)}") from error
    with ours:
        yield ours


@contextmanager
def local_workers(workers: int | None) -> Iterator[Client | None]:
    """Worker processes on this machine, which share its cores; none if no number is given."""
    if workers is None:
        yield None
        return
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    threads = max(1, CPU_COUNT // workers)
    with (
        LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def check_portable(encoder: str | Encoder | None) -> None:
    """Raise if an encoder cannot be pickled, or is too large to be sent with every slide."""
    from distributed.protocol.pickle import dumps

    if encoder is None or isinstance(encoder, str):
        return
    hint = "Register it on every worker (`dask worker --preload file.py`), and pass its name."
    try:
        size = len(dumps(encoder)) / 1e6
    except Exception as error:  # pickle raises whatever an object's own methods do
        raise InputTypeError(f"The encoder cannot be sent to workers ({one_line(error)}). {hint}") from error
    if size > LARGEST_ENCODER_MB:
        raise InputError(f"The encoder takes {size:.0f} MB, too much to be sent with every slide. {hint}")


def work(job: Job, wanted: dict[str, Any], threads: int | None = None) -> SlideResult:
    """On a worker: do a job with wanted settings, and by default as many threads as the worker was given."""
    with _one_at_a_time, use_settings(wanted, _threads() if threads is None else threads):
        try:
            model = _load(job.folder.model, job.recipe.model)
        except Exception as error:  # noqa: BLE001 - as for all that goes wrong with a slide
            return SlideResult(job.slide, 0.0, error=one_line(error))
        return run_slide(job, model)


def refusal(job: Job, wanted: dict[str, Any]) -> str | None:
    """On a worker: why it could do no job of this cohort, if that is so."""
    out = job.folder.path
    if not (out / LOCK).exists():
        return f"there is no folder {str(out)!r}. Workers and this process have to share `out` and the slides"
    with _one_at_a_time, use_settings(wanted, _threads()):
        try:
            choose_device(job.device)
            _load(job.folder.model, job.recipe.model).get_encoder(job.encoder)
        except Exception as error:  # noqa: BLE001 - it becomes part of the message
            return one_line(error)
    return None


@lru_cache(maxsize=1)
def _load(bundle: Path, fingerprint: str) -> DeepSpot:
    from deepspot.models._registry import read_model

    model = read_model(bundle)
    if model.fingerprint != fingerprint:
        raise InputError(f"{str(bundle)!r} is not the model of this cohort any more. Start the cohort again.")
    return model


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


@contextmanager
def use_settings(wanted: dict[str, Any], threads: int) -> Iterator[None]:
    """Use settings of another process, and so many threads, for the time of a job."""
    import dask
    import torch

    ours = dict(vars(settings))
    before = torch.get_num_threads()
    try:
        for name, value in wanted.items():
            setattr(settings, name, value)
        settings.workers = threads
        torch.set_num_threads(threads)
        # Or else dask would send the reading of image blocks to the scheduler, as tasks of their own.
        with dask.config.set(scheduler="threads", num_workers=threads):
            yield
    finally:
        torch.set_num_threads(before)
        for name, value in ours.items():
            setattr(settings, name, value)
