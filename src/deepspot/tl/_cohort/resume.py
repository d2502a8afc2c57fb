"""Which slides are finished, and whether they were made in the way that is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepspot._core.hashing import hash_file
from deepspot._core.keys import COHORT, SLIDE
from deepspot._core.logging import logger

from .folder import Folder
from .job import Job, Outcome

FILE = "file"
MOST_SHOWN = 5


def split(jobs: Iterable[Job], folder: Folder, *, overwrite: bool) -> tuple[list[Outcome], list[Job]]:
    """The outcomes of slides that are finished, and the jobs that are to be done.

    Raises
    ------
    ValueError
        If slides are finished but were made otherwise, unless they may be replaced.
    """
    finished: list[Outcome] = []
    to_do: list[Job] = []
    other: dict[str, dict[str, str]] = {}
    for job in jobs:
        outcome, differs = _look(job, folder)
        if outcome is not None:
            finished.append(outcome)
            continue
        to_do.append(job)
        if differs:
            other[job.slide] = differs
    if other and not overwrite:
        name, differs = next(iter(other.items()))
        raise ValueError(
            f"{len(other)} slides in {str(folder.path)!r} were made otherwise: {list(other)[:MOST_SHOWN]}"
            f"{', …' if len(other) > MOST_SHOWN else ''}. For {name!r}: "
            + "; ".join(f"`{key}` {text}" for key, text in differs.items())
            + ". Choose another `out`, ask for the same as then, or replace them with `overwrite=True`."
        )
    if other:
        logger.info("Replacing %d slides, which were made otherwise.", len(other))
    return finished, to_do


def after_all(job: Job, folder: Folder) -> Outcome | None:
    """The outcome of a slide that is finished though an attempt at it failed: another worker had done it already."""
    try:
        return _look(job, folder)[0]
    except (OSError, ValueError):  # what is there cannot be read, so that it is no result
        return None


def _look(job: Job, folder: Folder) -> tuple[Outcome | None, dict[str, str]]:
    """The outcome of a slide if it is finished, and in what it differs if it was made otherwise."""
    said = _said(folder.slide(job.slide))
    if said is None:
        return None, {}
    differs = _differences(job, said)
    if differs:
        return None, differs
    made = said[COHORT]
    return Outcome(job.slide, made["seconds"], made["spots"], made["ood_share"]), {}


def _said(store: Path) -> dict[str, Any] | None:
    """What a store says of itself, if there is one."""
    import zarr

    if not store.exists():
        return None
    attrs = dict(zarr.open_group(store, mode="r").attrs)
    if COHORT not in attrs:
        raise ValueError(f"{str(store)!r} was not made by `ds.tl.cohort`. Move it away, or choose another `out`.")
    return attrs


def _differences(job: Job, said: dict[str, Any]) -> dict[str, str]:
    made, asked = said[COHORT]["made_by"], job.made_by()
    found = {key: f"was {made.get(key)!r} and is {asked[key]!r} now" for key in asked if made.get(key) != asked[key]}
    path = Path(job.path)
    # A slide whose file was moved to the archive stays finished. One that looks as it did is not read again.
    if not path.is_file() or looks(path) == said[COHORT]["looks"]:
        return found
    if hash_file(path) != said[SLIDE]["fingerprint"]:
        found[FILE] = f"{job.path!r} has another content now"
    return found


def looks(path: Path) -> list[int]:
    """Size of a file and when it was written, which tells for most that it did not change."""
    known = path.stat()
    return [known.st_size, known.st_mtime_ns]
