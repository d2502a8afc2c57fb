"""What a Dask worker does: one slide at a time, with the settings of who asks and no more threads than it was given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot._core.device import choose_device
from deepspot._core.settings import settings

from .folder import LOCK, Folder
from .job import Job, Outcome, one_line
from .run_slide import run_slide

if TYPE_CHECKING:
    from deepspot.models import DeepSpot

# Settings and the number of threads are those of a process. A scheduler that has lost a worker may give another one
# two slides.
_one_at_a_time = threading.Lock()


def work(job: Job, asked: dict[str, Any], threads: int | None = None) -> Outcome:
    """Do a job.

    Parameters
    ----------
    job
        The slide.
    asked
        Settings of the process that asks.
    threads
        Threads to use; by default those that the worker was given.
    """
    with _one_at_a_time, _as_asked(asked, _threads() if threads is None else threads):
        try:
            model = _model(job)
        except Exception as error:  # noqa: BLE001 - as for all that goes wrong with a slide
            return Outcome(job.slide, 0.0, error=one_line(error))
        return run_slide(job, model)


def obstacle(job: Job, asked: dict[str, Any]) -> str | None:
    """Why a worker could do no job of this cohort, if that is so: asked before any is sent."""
    if not (job.out / LOCK).exists():
        return f"there is no folder {str(job.out)!r}. Workers and this process have to share `out` and the slides"
    with _one_at_a_time, _as_asked(asked, _threads()):
        try:
            choose_device(job.device)
            _model(job).get_encoder(job.encoder)
        except Exception as error:  # noqa: BLE001 - it is told where it can be mended
            return one_line(error)
    return None


def _model(job: Job) -> DeepSpot:
    return _load(Folder(job.out).model, job.recipe.model)


@lru_cache(maxsize=1)
def _load(bundle: Path, fingerprint: str) -> DeepSpot:
    from deepspot.models import DeepSpot

    model = DeepSpot.load(bundle)
    if model.fingerprint != fingerprint:
        raise ValueError(f"{str(bundle)!r} is not the model of this cohort any more. Start the cohort again.")
    return model


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


@contextmanager
def _as_asked(asked: dict[str, Any], threads: int) -> Iterator[None]:
    """Settings of somebody else, and so many threads, for the time of a job."""
    import dask
    import torch

    ours = dict(vars(settings))
    before = torch.get_num_threads()
    try:
        for name, value in asked.items():
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
