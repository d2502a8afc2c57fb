"""One slide of a cohort: what is to be done, from its file to its store, and whether that is done already."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepspot._core.hashing import hash_file
from deepspot._core.keys import COHORT, SLIDE, UNS, prediction_name
from deepspot._core.logging import logger, without_noise
from deepspot.errors import InputError

from .folder import Folder

if TYPE_CHECKING:
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

Layout = Literal["square", "hexagonal"]
Tissue = Literal["brightness", "saturation"]
SHAPES, PROFILE, HOW = "spots", "pseudobulk", "mean"
TABLE = prediction_name(SHAPES)
MOST_SHOWN = 5


@dataclass(frozen=True)
class Recipe:
    """What all results depend on, besides the files; `model` is a fingerprint, which covers the encoder."""

    model: str
    diameter_um: float
    pitch_um: float
    layout: Layout
    tissue: Tissue | None
    half: bool


@dataclass(frozen=True)
class Job:
    """A slide to be predicted, small enough to be sent to a worker."""

    slide: str
    path: str
    mpp: float | None
    folder: Folder
    recipe: Recipe
    encoder: str | Encoder | None = None
    device: str | None = None
    batch_size: int | None = None

    def made_by(self) -> dict[str, Any]:
        """What a result has to have been made by, so that it is the one of this job."""
        return {**asdict(self.recipe), "mpp": self.mpp}

    def size(self) -> float:
        """Bytes of the file: glass packs to nothing, so that they tell how much tissue there is."""
        path = Path(self.path)
        return float(path.stat().st_size) if path.is_file() else 1.0


@dataclass(frozen=True)
class SlideResult:
    """What became of a slide; `spots` and `ood_share` are None if it failed, and `error` is None if it did not."""

    slide: str
    seconds: float | None
    spots: int | None = None
    ood_share: float | None = None
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.error is None


def run_slide(job: Job, model: DeepSpot) -> SlideResult:
    """Predict a slide and put its store in place; an error becomes part of the result."""
    start = time.perf_counter()
    try:
        with _only_warnings(job.slide), without_noise(), job.folder.attempt(job.slide) as attempt:
            return _predict(job, model, attempt, start)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a slide, the others go on
        return SlideResult(job.slide, _since(start), error=one_line(error))


def _predict(job: Job, model: DeepSpot, attempt: Path, start: float) -> SlideResult:
    from deepspot import io, pp
    from deepspot._sdata.zarr_store import complete
    from deepspot.cohort._patients.pseudobulk import profile
    from deepspot.tl._predict.predict import predict

    recipe, store = job.recipe, attempt / "slide.zarr"
    looks = _looks(Path(job.path)) if Path(job.path).is_file() else None
    sdata = io.slide(job.path, mpp=job.mpp, name=job.slide)
    pp.spots(
        sdata,
        diameter_um=recipe.diameter_um,
        pitch_um=recipe.pitch_um,
        layout=recipe.layout,
        tissue=recipe.tissue,
        key_added=SHAPES,
    )
    predict(
        sdata,
        model,
        out=store,
        half=recipe.half,
        shapes_key=SHAPES,
        encoder=job.encoder,
        device=job.device,
        batch_size=job.batch_size,
    )
    table = sdata.tables[TABLE]
    made = {"slide": job.slide, "made_by": job.made_by(), "looks": looks, "spots": table.n_obs}
    made |= {"ood_share": float(table.uns[UNS]["ood_share"]), "seconds": _since(start)}
    complete(store, TABLE, var={PROFILE: profile(table.X, HOW)}, attrs={COHORT: made})
    job.folder.place(attempt, store, job.slide)
    return _result(made)


def split(jobs: Iterable[Job], folder: Folder, *, overwrite: bool) -> tuple[list[SlideResult], list[Job]]:
    """Results of slides that are finished, and jobs to be done; raise if slides may not be replaced."""
    finished: list[SlideResult] = []
    to_do: list[Job] = []
    other: dict[str, str] = {}
    for job in jobs:
        made = _read_attrs(job)
        differences = None if made is None else _differences(job, made)
        if made is not None and not differences:
            finished.append(_result(made[COHORT]))
            continue
        to_do.append(job)
        if differences:
            other[job.slide] = differences
    if other and not overwrite:
        name, differences = next(iter(other.items()))
        raise InputError(
            f"{len(other)} slides in {str(folder.path)!r} were made otherwise: {list(other)[:MOST_SHOWN]}"
            f"{', …' if len(other) > MOST_SHOWN else ''}. For {name!r}: {differences}. Choose another `out`, ask for "
            "the same as then, or replace them with `overwrite=True`."
        )
    if other:
        logger.info("Replacing %d slides, which were made otherwise.", len(other))
    return finished, to_do


def find_result(job: Job) -> SlideResult | None:
    """Result of a slide that is finished as asked for, if there is one that can be read."""
    try:
        made = _read_attrs(job)
        return None if made is None or _differences(job, made) else _result(made[COHORT])
    except (OSError, ValueError):
        return None


def _read_attrs(job: Job) -> dict[str, Any] | None:
    """Attributes of the store of a slide, if there is one."""
    import zarr

    store = job.folder.slide(job.slide)
    if not store.exists():
        return None
    attrs = dict(zarr.open_group(store, mode="r").attrs)
    if COHORT not in attrs:
        raise InputError(f"{str(store)!r} was not made by `ds.cohort.run`. Move it away, or choose another `out`.")
    return attrs


def _result(made: dict[str, Any]) -> SlideResult:
    return SlideResult(made["slide"], made["seconds"], made["spots"], made["ood_share"])


def _differences(job: Job, made: dict[str, Any]) -> str:
    """In what a store differs from what is asked for, in words."""
    then, now = made[COHORT]["made_by"], job.made_by()
    words = [f"`{key}` was {then.get(key)!r} and is {now[key]!r} now" for key in now if then.get(key) != now[key]]
    path = Path(job.path)
    # A slide whose file was moved to the archive stays finished. One that looks as it did is not read again.
    if path.is_file() and _looks(path) != made[COHORT]["looks"] and hash_file(path) != made[SLIDE]["fingerprint"]:
        words.append(f"`file` {job.path!r} has another content now")
    return "; ".join(words)


def _looks(path: Path) -> list[int]:
    """Size of a file and when it was written, which tells for most that it did not change."""
    known = path.stat()
    return [known.st_size, known.st_mtime_ns]


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


@contextmanager
def _only_warnings(slide: str) -> Iterator[None]:
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


def one_line(error: BaseException) -> str:
    """Kind and text of an error in one line."""
    # Python quotes the text of a KeyError.
    text = error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error
    text = " ".join(" ".join([str(text), *getattr(error, "__notes__", [])]).split())
    if not text and isinstance(error, MemoryError):
        text = "not enough memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
