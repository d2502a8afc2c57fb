"""One slide of a cohort: its job, its result, and whether a finished result matches the job."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deepspot._core.hashing import digest, hash_file
from deepspot._core.keys import ARTIFACT, COHORT, SLIDE, UNS, prediction_name
from deepspot._core.logging import count_of, logger, only_warnings, without_noise
from deepspot.errors import InputError

from .folder import Folder

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import Model

Layout = Literal["square", "hexagonal"]
Tissue = Literal["brightness", "saturation"]
Artifacts = Literal["exclude", "flag"]
SHAPES, PROFILE, HOW = "spots", "pseudobulk", "mean"
TABLE = prediction_name(SHAPES)
MAX_SHOWN = 5
THREADS = 16  # that look at finished slides: disks and networks take longer to answer than their files to read


@dataclass(frozen=True)
class SlideOptions:
    """Everything that a result depends on, except the file; stored with the result."""

    model: str  # fingerprint, which includes the encoder
    diameter_um: float
    pitch_um: float
    layout: Layout
    tissue: Tissue | None
    rounded: bool
    mpp: float | None
    artifacts: Artifacts | None = None


@dataclass(frozen=True)
class Job:
    """A slide to predict. It is small and is sent to workers."""

    slide: str
    path: str
    folder: Folder
    options: SlideOptions
    encoder: str | Encoder | None = None
    device: str | None = None
    batch_size: int | None = None

    def size(self) -> float:
        """Return the size of the file in bytes: glass compresses well, so it is a measure of the tissue area."""
        path = Path(self.path)
        return float(path.stat().st_size) if path.is_file() else 1.0


@dataclass(frozen=True)
class SlideResult:
    """Result of a slide: numbers are None if it failed, and `error` is None if it is done.

    `artifact_share` is that of the spots on tissue, before they are excluded; None if it was not measured.
    """

    slide: str
    seconds: float | None
    spots: int | None = None
    ood_share: float | None = None
    artifact_share: float | None = None
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether the slide was predicted."""
        return self.error is None


def run_slide(job: Job, model: Model) -> SlideResult:
    """Predict a slide and move its store into the folder; an error becomes part of the result."""
    start = time.perf_counter()
    try:
        with only_warnings(job.slide), without_noise(), job.folder.attempt(job.slide) as attempt:
            return _predict(job, model, attempt, start)
    except Exception as error:  # noqa: BLE001 - an error of one slide must not stop the others
        return SlideResult(job.slide, _seconds_since(start), error=one_line(error))


def _predict(job: Job, model: Model, attempt: Path, start: float) -> SlideResult:
    from deepspot import io, pp, tl
    from deepspot._sdata.zarr_store import complete
    from deepspot.cohort._patients.pseudobulk import profile

    options, store = job.options, attempt / "slide.zarr"
    file_state = _file_state(Path(job.path)) if Path(job.path).is_file() else None
    sdata = io.slide(job.path, mpp=options.mpp, name=job.slide)
    pp.spots(
        sdata,
        diameter_um=options.diameter_um,
        pitch_um=options.pitch_um,
        layout=options.layout,
        tissue=options.tissue,
        key_added=SHAPES,
    )
    artifact_share = None if options.artifacts is None else _check_quality(sdata, job)
    tl.predict(
        sdata,
        model,
        out=store,
        rounded=options.rounded,
        shapes_key=SHAPES,
        encoder=job.encoder,
        device=job.device,
        batch_size=job.batch_size,
    )
    table = sdata.tables[TABLE]
    ood_share = float(table.uns[UNS]["ood_share"])
    result = SlideResult(job.slide, _seconds_since(start), table.n_obs, ood_share, artifact_share)
    values = profile(table.X, HOW)
    made = asdict(result) | {"made_by": asdict(options), "file_state": file_state}
    complete(
        store,
        TABLE,
        var={PROFILE: values},
        attrs=lambda: {COHORT: made | {"state": _state(store), "content": _content(store)}},
    )
    job.folder.place(attempt, store, job.slide)
    return result


def _check_quality(sdata: SpatialData, job: Job) -> float:
    """Flag the spots with artifacts, or leave them out. Return their share of the spots."""
    from deepspot import pp
    from deepspot._sdata.shapes import add_shapes

    pp.quality(sdata, shapes_key=SHAPES)
    spots = sdata.shapes[SHAPES]
    bad = (spots[ARTIFACT] != "none").to_numpy()
    if job.options.artifacts == "exclude":
        if bad.all():
            raise InputError(f"All {len(bad):,} spots have artifacts. `artifacts='flag'` predicts them nevertheless.")
        add_shapes(sdata, SHAPES, spots[~bad].reset_index(drop=True), what="spots without artifacts", overwrite=True)
    return float(bad.mean())


def split(jobs: Sequence[Job], folder: Folder, *, overwrite: bool) -> tuple[list[SlideResult], list[Job]]:
    """Return results of finished slides, and the other jobs; raise if a slide would be replaced without `overwrite`."""
    finished: list[SlideResult] = []
    to_do: list[Job] = []
    different: dict[str, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for job, found in zip(jobs, pool.map(_stored_or_damage, jobs), strict=True):
            if isinstance(found, DamagedError):
                logger.warning("%s", found)
            result, differences = (None, "") if isinstance(found, DamagedError) else found
            if result is not None and not differences:
                finished.append(result)
                continue
            to_do.append(job)
            if differences:
                different[job.slide] = differences
    if different and not overwrite:
        name, differences = next(iter(different.items()))
        raise InputError(
            f"{len(different)} slides in {str(folder.path)!r} were made with other options: "
            f"{list(different)[:MAX_SHOWN]}{', …' if len(different) > MAX_SHOWN else ''}. For {name!r}: {differences}. "
            "Choose another `out`, use the same options, or replace these slides with `overwrite=True`."
        )
    if different:
        logger.info("Replacing %s made with other options.", count_of(len(different), "slide"))
    return finished, to_do


def find_result(job: Job) -> SlideResult | None:
    """Return the result of a slide if it is finished with the options of the job and readable."""
    try:
        result, differences = _stored(job)
    except (OSError, ValueError, DamagedError):
        return None
    return None if differences else result


class DamagedError(Exception):
    """The store of a finished slide is damaged."""


# Errors of damaged metadata of zarr, and of attributes of another form.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError)


def _stored_or_damage(job: Job) -> tuple[SlideResult | None, str] | DamagedError:
    try:
        return _stored(job)
    except DamagedError as error:
        return error


def _stored(job: Job) -> tuple[SlideResult | None, str]:
    """Return the stored result of a slide, if there is one, and how it differs from the job.

    Raises DamagedError if a part of the store was lost or changed.
    """
    import zarr

    store = job.folder.slide(job.slide)
    if not store.exists():
        return None, ""
    damaged = DamagedError(f"{store} is damaged, or was made by an earlier version, and is predicted again.")
    try:
        # Without the metadata of all arrays, which would be parsed: a restart opens every slide.
        root = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
        attrs: dict[str, Any] = dict(root.attrs)
    except (OSError, *DAMAGED) as error:
        if (store / "tables" / TABLE).is_dir() or (store.is_dir() and not any(store.iterdir())):
            raise damaged from error
        attrs = {}
    if COHORT not in attrs:
        raise InputError(f"{str(store)!r} was not made by `ds.cohort.run`. Move it away, or choose another `out`.")
    try:
        made = attrs[COHORT]
        result = SlideResult(
            made["slide"], made["seconds"], made["spots"], made["ood_share"], made.get("artifact_share")
        )
        then, file_state, fingerprint = made["made_by"], made["file_state"], attrs[SLIDE]["fingerprint"]
        # Zarr reads a lost chunk as zeros. Files in the same state are not read.
        whole = made["state"] == _state(store) or made["content"] == _content(store)
        now = asdict(job.options)
        differences = [
            f"`{key}` was {then.get(key)!r} and is {now[key]!r} now" for key in now if then.get(key) != now[key]
        ]
    except (OSError, *DAMAGED) as error:
        raise damaged from error
    if not whole:
        raise damaged
    path = Path(job.path)
    # A missing file is no difference: slides may be archived. A file in the same state is not hashed again.
    if path.is_file() and _file_state(path) != file_state and hash_file(path) != fingerprint:
        differences.append(f"`file` {job.path!r} has another content now")
    return result, "; ".join(differences)


def _state(store: Path) -> str:
    """Return a hash of the names, sizes and times of the files of a store."""
    return digest([[name, *_file_state(path)] for name, path in _files(store)])


def _content(store: Path) -> str:
    """Return a hash of the files of a store."""
    return digest([[name, hash_file(Path(path))] for name, path in _files(store)])


def _files(store: Path) -> list[tuple[str, str]]:
    """Return the files of a store, without the one that contains its attributes and files like ``.DS_Store``.

    Paths are text: a restart lists the files of every slide, and `pathlib` takes five times as long.
    """
    start = len(str(store)) + 1
    found = ((folder[start:], folder, name) for folder, _, names in os.walk(store) for name in names if name[0] != ".")
    files = [(f"{part}/{name}".replace(os.sep, "/").lstrip("/"), f"{folder}/{name}") for part, folder, name in found]
    return sorted(file for file in files if file[0] != "zarr.json")


def read_profile(store: Path) -> np.ndarray:
    """Read the profile (genes,) of a finished slide."""
    import zarr

    return np.asarray(zarr.open_array(store / f"tables/{TABLE}/var/{PROFILE}", mode="r", zarr_format=3)[:])


def _file_state(path: str | Path) -> list[int]:
    """Return size and modification time of a file."""
    stat = os.stat(path)  # noqa: PTH116 - paths of stores are text
    return [stat.st_size, stat.st_mtime_ns]


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


def one_line(error: BaseException) -> str:
    """Return kind and text of an error in one line."""
    # Python quotes the text of a KeyError.
    text = error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error
    text = " ".join(" ".join([str(text), *getattr(error, "__notes__", [])]).split())
    if not text and isinstance(error, MemoryError):
        text = "not enough memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
