"""Slides on a Dask cluster, one for each worker at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deepspot._core.logging import logger
from deepspot._core.settings import settings

from .dask_worker import obstacle, work
from .job import Job, Outcome, one_line

if TYPE_CHECKING:
    from distributed import Client, Future

    from deepspot.encoders import Encoder

# Workers come and go: so often is looked whether there is one without work.
POLL_SECONDS = 5.0
LARGEST_ENCODER_MB = 50


class Cluster:
    """A Dask cluster.

    Parameters
    ----------
    client
        Connected to its scheduler.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        # What is shown here is the progress over the cohort.
        self.asked = asdict(settings) | {"progress": False}

    def workers(self) -> int:
        """How many slides are worked on at once."""
        return len(self.client.nthreads())

    def check(self, job: Job) -> None:
        """Raise if workers cannot do a job such as this, before any is sent.

        Raises
        ------
        ValueError
            If they cannot.
        """
        if not self.workers():
            logger.info("Waiting for a first worker of the scheduler at %s.", self.client.scheduler.address)  # type: ignore[union-attr]
        why = self.client.submit(obstacle, job, self.asked, pure=False).result()
        if why is not None:
            raise ValueError(
                f"The workers cannot do this: {why}. An encoder of your own has to be registered on every worker "
                "(`dask worker --preload file.py`), or passed as an object with `encoder=`."
            )

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do the jobs, and tell of each when it has come to its end."""
        waiting = deque(jobs)
        running: dict[Future, tuple[str, str | None]] = {}
        try:
            while waiting or running:
                self._fill(waiting, running)
                for future in self._ended(list(running)):
                    yield self._outcome(future, running.pop(future)[0])
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
        known = list(self.client.nthreads())
        busy = {worker for _, worker in running.values()}
        idle: list[str | None] = [worker for worker in known if worker not in busy]
        if not known and not running:
            idle = [None]  # a task that waits is what makes an adaptive cluster start a worker
        for worker in idle:
            if not waiting:
                return
            job = waiting.popleft()
            where = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
            future = self.client.submit(work, job, self.asked, pure=False, retries=0, key=_key(job), **where)
            running[future] = (job.slide, worker)

    def _outcome(self, future: Future, slide: str) -> Outcome:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker:
            return Outcome(slide, None, error="KilledWorker: workers died while they worked on it. Not enough memory?")
        except Exception as error:  # noqa: BLE001 - as for all that goes wrong with a slide
            return Outcome(slide, None, error=one_line(error))


@contextmanager
def connected(client: Client | str) -> Iterator[Client]:
    """A client as it is, or one to the scheduler at an address for as long as it is needed."""
    from distributed import Client

    if isinstance(client, Client):
        if client.asynchronous:
            raise TypeError("`client` is asynchronous. Pass a `distributed.Client` that is not, or an address.")
        yield client
        return
    if not isinstance(client, str):
        raise TypeError(f"`client` must be a `distributed.Client` or the address of a scheduler, got {type(client)}.")
    try:
        ours = Client(client)
    except (OSError, ValueError) as error:
        raise ValueError(f"No Dask scheduler answers at {client!r}: {one_line(error)}") from error
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


def portable(encoder: str | Encoder | None) -> str | Encoder | None:
    """An encoder as it can be sent to workers.

    Raises
    ------
    TypeError
        If it cannot be pickled.
    ValueError
        If it is too large to be sent with every slide.
    """
    from distributed.protocol.pickle import dumps

    if encoder is None or isinstance(encoder, str):
        return encoder
    instead = "Register it on every worker (`dask worker --preload file.py`), and pass its name."
    try:
        size = len(dumps(encoder)) / 1e6
    except Exception as error:  # pickle raises whatever an object's own methods do
        raise TypeError(f"The encoder cannot be sent to workers ({one_line(error)}). {instead}") from error
    if size > LARGEST_ENCODER_MB:
        raise ValueError(f"The encoder takes {size:.0f} MB, too much to be sent with every slide. {instead}")
    return encoder


def _key(job: Job) -> Any:
    from uuid import uuid4

    return f"deepspot-{job.slide}-{uuid4().hex}"  # the dashboard of Dask shows it
