"""One slide, from its file to its store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.keys import COHORT, UNS, prediction_name
from deepspot._core.logging import logger, without_noise
from deepspot._sdata.zarr_store import complete

from .folder import Folder
from .job import Job, Outcome, one_line
from .resume import looks

if TYPE_CHECKING:
    from deepspot.models import DeepSpot

SHAPES, PROFILE, HOW = "spots", "pseudobulk", "mean"
TABLE = prediction_name(SHAPES)


def run_slide(job: Job, model: DeepSpot) -> Outcome:
    """Predict a slide and put its store in place; what goes wrong is told and not raised.

    Parameters
    ----------
    job
        The slide.
    model
        The model of its recipe.
    """
    start = time.perf_counter()
    folder = Folder(job.out)
    try:
        with only_warnings(job.slide), without_noise(), folder.attempt(job.slide) as attempt:
            return _run(job, model, folder, attempt, start)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a slide, the others go on
        return Outcome(job.slide, _since(start), error=one_line(error))


def _run(job: Job, model: DeepSpot, folder: Folder, attempt: Path, start: float) -> Outcome:
    from deepspot.io import slide
    from deepspot.pp import spots
    from deepspot.tl._patients.pseudobulk import profile
    from deepspot.tl._predict.predict import predict

    recipe, store = job.recipe, attempt / "slide.zarr"
    seen = looks(Path(job.path)) if Path(job.path).is_file() else None
    sdata = slide(job.path, mpp=job.mpp, name=job.slide)
    spots(
        sdata, diameter_um=recipe.diameter_um, distance_um=recipe.distance_um, layout=recipe.layout,
        tissue=recipe.tissue, key_added=SHAPES,
    )  # fmt: skip
    predict(
        sdata, model, out=store, half=recipe.half, shapes_key=SHAPES, encoder=job.encoder, device=job.device,
        batch_size=job.batch_size,
    )  # fmt: skip
    table = sdata.tables[TABLE]
    spots, ood_share = table.n_obs, float(table.uns[UNS]["ood_share"])
    seconds = _since(start)
    said = {
        "slide": job.slide, "made_by": job.made_by(), "looks": seen, "spots": spots, "ood_share": ood_share,
        "seconds": seconds,
    }  # fmt: skip
    complete(store, TABLE, var={PROFILE: profile(table.X, HOW)}, attrs={COHORT: said})
    folder.place(attempt, store, job.slide)
    return Outcome(job.slide, seconds, spots, ood_share)


@contextmanager
def only_warnings(slide: str) -> Iterator[None]:
    """Let only warnings through, with the name of the slide: a cohort is no place for five lines on each."""

    def named(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return False
        record.msg, record.args = f"{slide}: {record.getMessage()}", ()
        return True

    logger.addFilter(named)
    try:
        yield
    finally:
        logger.removeFilter(named)


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)
