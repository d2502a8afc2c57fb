from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._logging import logger

from . import _cluster, _collect, _finished
from ._folder import Folder
from ._here import Here
from ._job import Job, Outcome, Recipe, one_line
from ._progress import Progress
from ._run_table import DONE, FAILED, RunTable

if TYPE_CHECKING:
    from distributed import Client

    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot


@dataclass(frozen=True)
class Options:
    """How to run, other than what results depend on.

    Attributes
    ----------
    client
        Where; None is this process.
    encoder, device, batch_size
        As in :func:`deepspot.tl.predict`.
    overwrite
        Replace slides that were made otherwise.
    """

    client: Client | str | None
    encoder: str | Encoder | None
    device: str | None
    batch_size: int | None
    overwrite: bool


def run_cohort(manifest: pd.DataFrame, model: DeepSpot, recipe: Recipe, out: Path, options: Options) -> pd.DataFrame:
    """Do all slides that are not done yet, and write what is known of all.

    Parameters
    ----------
    manifest
        Checked; see :func:`deepspot._cohort._manifest.read_manifest`.
    model, recipe, out, options
        What predicts, how, where to, and where it runs.

    Returns
    -------
    The run table.
    """
    folder = Folder(out)
    with folder.claim(), _place(options, model) as place:
        jobs = _jobs(manifest, recipe, folder, options)
        finished, to_do = _finished.split(jobs, folder, overwrite=options.overwrite)
        for outcome in finished:  # a process may have died just after it had put a slide in its place
            folder.forget(outcome.slide)
        _keep_model(folder, model)
        if isinstance(place, _cluster.Cluster) and to_do:
            place.check(to_do[0])
        table = RunTable.start(folder, manifest, finished)
        logger.info("%d slides in %s: %d are finished, %d to do.", len(jobs), out, len(finished), len(to_do))
        table.save()
        _work(to_do, place, table, folder, manifest, model)
    done, failed = table.count(DONE), table.count(FAILED)
    logger.info(
        "%d of %d slides are done%s. Run table: %s", done, len(jobs), f", {failed} failed" * bool(failed), folder.runs
    )
    return table.frame


def _work(
    jobs: Sequence[Job], place: Here | _cluster.Cluster, table: RunTable, folder: Folder, manifest: pd.DataFrame,
    model: DeepSpot,
) -> None:  # fmt: skip
    """First the slides of which nothing bad is known, then those during which a process died."""
    deaths = folder.deaths()
    sizes = _sizes(jobs)
    if isinstance(place, _cluster.Cluster):
        jobs = sorted(jobs, key=lambda job: -sizes[job.slide])  # so that no long one is left over at the end
    suspects = [job for job in jobs if job.slide in deaths]
    with Progress(sizes, len(manifest), table.count(DONE), place.workers) as progress:
        for part in ([job for job in jobs if job.slide not in deaths], suspects):
            for outcome in place.run(part):
                folder.forget(outcome.slide)
                table.put(outcome)
                table.save()
                if not outcome.done:
                    logger.warning("Slide %r failed. %s", outcome.slide, outcome.error)
                progress.tell(outcome)
            if part is not suspects and suspects:
                # These may kill this process once more: what is known by now shall be there then.
                for job in suspects:
                    table.put(Outcome(job.slide, None, error=_died(deaths[job.slide])))
                _write(folder, manifest, table, model)
    _write(folder, manifest, table, model)


def _write(folder: Folder, manifest: pd.DataFrame, table: RunTable, model: DeepSpot) -> None:
    """Write what is known of all slides."""
    try:
        table.save(last=True)
        _collect.save(folder, manifest, table, model)
    except OSError as error:
        error.add_note(f"Finished slides are safe. Start again when there is room in {str(folder.path)!r}.")
        if not table.count(FAILED):
            raise
        # The disk is full, as slides have met it: the table that says so is worth more than an exception.
        logger.warning("Run table or profiles could not be written. %s", one_line(error))


def _died(times: int) -> str:
    often = "" if times == 1 else f" {times} times"
    return f"Killed: the process was killed{often} while it worked on this slide, so that it is tried again last"


def _jobs(manifest: pd.DataFrame, recipe: Recipe, folder: Folder, options: Options) -> list[Job]:
    mpp = manifest["mpp"] if "mpp" in manifest else pd.Series(np.nan, index=manifest.index)
    return [
        Job(
            slide, manifest.loc[slide, "path"], None if np.isnan(mpp[slide]) else float(mpp[slide]), folder.path,
            recipe, options.encoder, options.device, options.batch_size,
        )
        for slide in manifest.index
    ]  # fmt: skip


def _sizes(jobs: Sequence[Job]) -> dict[str, float]:
    """Bytes of the files: glass packs to nothing, so that they tell how much tissue there is."""
    paths = {job.slide: Path(job.path) for job in jobs}
    return {slide: float(path.stat().st_size) if path.is_file() else 1.0 for slide, path in paths.items()}


def _keep_model(folder: Folder, model: DeepSpot) -> None:
    """Save the model, from which workers load it, and by which results describe themselves."""
    from deepspot.models import DeepSpot

    try:
        if DeepSpot.load(folder.model).fingerprint == model.fingerprint:
            return
    except (FileNotFoundError, ValueError):  # there is none, or it is damaged
        pass
    model.save(folder.model, overwrite=True)


@contextmanager
def _place(options: Options, model: DeepSpot) -> Iterator[Here | _cluster.Cluster]:
    if options.client is None:
        yield Here(model)
        return
    _cluster.portable(options.encoder)
    with _cluster.connected(options.client) as client:
        yield _cluster.Cluster(client)
