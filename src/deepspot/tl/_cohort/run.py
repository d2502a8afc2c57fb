"""Slides one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.logging import logger

from .dask_cluster import Cluster, connected, portable
from .folder import Folder
from .job import Job, Outcome, Recipe, one_line
from .resume import after_all, split
from .run_slide import run_slide
from .run_table import DONE, FAILED, Progress, RunTable, save

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
        Checked; see :func:`deepspot.tl._cohort.manifest.read_manifest`.
    model, recipe, out, options
        What predicts, how, where to, and where it runs.

    Returns
    -------
    The run table.
    """
    folder = Folder(out)
    with folder.claim(), _place(options, model) as place:
        jobs = _jobs(manifest, recipe, folder, options)
        finished, to_do = split(jobs, folder, overwrite=options.overwrite)
        for outcome in finished:  # a process may have died just after it had put a slide in its place
            folder.forget(outcome.slide)
        _keep_model(folder, model)
        if isinstance(place, Cluster) and to_do:
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
    jobs: Sequence[Job], place: Here | Cluster, table: RunTable, folder: Folder, manifest: pd.DataFrame,
    model: DeepSpot,
) -> None:  # fmt: skip
    """First the slides of which nothing bad is known, then those during which a process died."""
    deaths = folder.deaths()
    sizes = _sizes(jobs)
    if isinstance(place, Cluster):
        jobs = sorted(jobs, key=lambda job: -sizes[job.slide])  # so that no long one is left over at the end
    suspects = [job for job in jobs if job.slide in deaths]
    by_slide = {job.slide: job for job in jobs}
    with Progress(sizes, len(manifest), table.count(DONE), place.workers) as progress:
        for part in ([job for job in jobs if job.slide not in deaths], suspects):
            for outcome in place.run(part):
                folder.forget(outcome.slide)
                if not outcome.done:
                    outcome = after_all(by_slide[outcome.slide], folder) or outcome
                table.put(outcome)
                table.save()
                if not outcome.done:
                    logger.warning("Slide %r failed. %s", outcome.slide, outcome.error)
                progress.tell(outcome)
            if part is not suspects and suspects:
                # These may kill this process once more: what is known by now shall be there then.
                for job in suspects:
                    table.put(Outcome(job.slide, None, error=_died(deaths[job.slide])))
                try:
                    _write(folder, manifest, table, model)
                except OSError as error:  # it is tried again at last
                    logger.warning("%s", error)
    _write(folder, manifest, table, model)


def _write(folder: Folder, manifest: pd.DataFrame, table: RunTable, model: DeepSpot) -> None:
    """Write what is known of all slides.

    Raises
    ------
    OSError
        If the run table or the profiles could not be written; the other one is written all the same.
    """
    errors: dict[Path, OSError] = {}
    try:
        table.save(last=True)
    except OSError as error:
        errors[folder.runs] = error
    try:
        save(folder, manifest, table, model)
    except OSError as error:
        errors[folder.pseudobulk] = error
    if errors:
        what = " and ".join(f"{path.name!r} ({one_line(error)})" for path, error in errors.items())
        raise OSError(
            f"Could not write {what} in {str(folder.path)!r}. Finished slides are kept: start again when there is room."
        ) from next(iter(errors.values()))


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
    folder.pseudobulk.unlink(missing_ok=True)  # profiles of another model must not lie beside this one
    model.save(folder.model, overwrite=True)


@contextmanager
def _place(options: Options, model: DeepSpot) -> Iterator[Here | Cluster]:
    if options.client is None:
        yield Here(model)
        return
    portable(options.encoder)
    with connected(options.client) as client:
        yield Cluster(client)


class Here:
    """Run jobs in this process.

    Parameters
    ----------
    model
        The model, as it is loaded here.
    """

    def __init__(self, model: DeepSpot) -> None:
        self.model = model

    def workers(self) -> int:
        """How many slides are worked on at once."""
        return 1

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do the jobs, and tell of each when it has come to its end."""
        for job in jobs:
            yield run_slide(job, self.model)
