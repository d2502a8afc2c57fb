"""Results of a whole cohort: run table, progress bar, and profiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import PSEUDOBULK, UNS
from deepspot._core.logging import bar, count_of, logger
from deepspot.models._model import is_log

from .folder import Folder
from .slide import HOW, THREADS, SlideResult, read_profile

if TYPE_CHECKING:
    from deepspot.models import Model


DONE, FAILED, WAITING = "done", "failed", "waiting"
RESULTS = {"seconds": "float64", "spots": "Int64", "ood_share": "float64", "artifact_share": "float64", "error": object}
SHARE = 0.05  # of the time in which the run table may be written


def read_runs(folder: Path) -> pd.DataFrame:
    """Return the run table in the output folder of a cohort, indexed by the names of the slides."""
    path = Folder(folder).runs
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no run table {path.name!r}. Pass the folder `out` of `ds.cohort.run`."
        )
    types = {"slide": str, "patient": str, "error": str, "spots": "Int64"}
    numbers = [name for name, dtype in RESULTS.items() if dtype is not object]  # a slide may be called "NA"
    empty = dict.fromkeys(numbers, "")
    return pd.read_csv(path, dtype=types, index_col="slide", keep_default_na=False, na_values=empty)


class RunTable:
    """Run table of a manifest: `frame` has one row for each slide."""

    def __init__(self, folder: Folder, manifest: pd.DataFrame, finished: Iterable[SlideResult]) -> None:
        self.folder, self.manifest = folder, manifest
        self.next_save = 0.0
        self.frame = manifest[["path", "patient"]].astype(object).assign(status=WAITING)
        self.frame["status"] = self.frame["status"].astype(object)
        for column, dtype in RESULTS.items():
            self.frame[column] = pd.Series(None, index=self.frame.index, dtype=dtype)
        for result in finished:
            self.put(result)

    def put(self, result: SlideResult) -> None:
        """Enter the result of a slide."""
        self.frame.at[result.slide, "status"] = DONE if result.done else FAILED
        for column in RESULTS:
            value = getattr(result, column)
            self.frame.at[result.slide, column] = pd.NA if value is None and column == "spots" else value

    def write(self) -> None:
        """Write the run table atomically."""
        with self.folder.writing(self.folder.runs) as draft:
            self.frame.to_csv(draft)

    def save(self, *, now: bool = False) -> None:
        """Write the run table after a slide; an error of the disk is only a warning.

        Unless it is needed `now`, it is left to a later slide if writing would take more than `SHARE` of the time:
        small slides may end faster than the table of a large cohort is written.
        """
        start = time.monotonic()
        if start < self.next_save and not now:
            return
        try:
            self.write()
        except OSError as error:
            logger.warning("The run table could not be written after this slide (%s).", error)
        end = time.monotonic()
        self.next_save = end + (end - start) / SHARE

    def count(self, status: str) -> int:
        """Return the number of slides with a status."""
        return int((self.frame["status"] == status).sum())


class Progress:
    """Progress bar of a cohort, or one line for each slide if the output is not a terminal.

    `sizes` are those of the slides to predict, in any unit; `workers` returns the number of slides at a time.
    """

    def __init__(self, sizes: Mapping[str, float], total: int, done: int, workers: Callable[[], int]) -> None:
        self.left, self.size_left = dict(sizes), sum(sizes.values())
        self.total, self.finished, self.failed, self.workers = total, done, 0, workers
        self.seconds = self.size = 0.0

    def __enter__(self) -> Progress:
        self.bar = bar("Slides", total=self.total, unit="slide")
        # The estimate of tqdm assumes slides of equal size.
        self.bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
        self.bar.update(self.finished)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, result: SlideResult) -> None:
        """Count a slide."""
        size = self.left.pop(result.slide, 0.0)
        self.size_left -= size
        self.finished += 1
        self.failed += not result.done
        if result.done and result.seconds is not None:
            self.seconds, self.size = self.seconds + result.seconds, self.size + size
        left = self.time_left()
        notes = [f"{self.failed} failed"] * bool(self.failed) + [f"about {left} left"] * bool(left)
        self.bar.set_postfix_str(", ".join(notes), refresh=False)
        self.bar.update()
        if self.bar.disable:
            logger.info("%s", ", ".join([f"{self.finished}/{count_of(self.total, 'slide')}", *notes]))

    def time_left(self) -> str:
        """Return the estimated time left; empty if it is unknown, or nothing is left."""
        if not self.left or not self.size:
            return ""
        workers = max(1, min(self.workers(), len(self.left)))
        return _duration(self.size_left * self.seconds / self.size / workers)


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 2:
        return "a minute"
    if minutes < 100:
        return f"{minutes} min"
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"


def save_profiles(table: RunTable, model: Model) -> None:
    """Write the profiles (slides, genes) of finished slides atomically, with their rows of the manifest as `obs`."""
    import h5py
    from anndata import AnnData
    from anndata.io import write_elem

    card, folder = model.card, table.folder
    done = table.frame[table.frame["status"] == DONE]
    obs = table.manifest.loc[done.index].assign(
        slide=done.index, spots=done["spots"].to_numpy(np.int64), ood_share=done["ood_share"].to_numpy(np.float64)
    )
    obs.index.name = None
    X = np.empty((len(done), len(card.genes)), dtype=np.float32)
    with ThreadPoolExecutor(THREADS) as pool:
        for row, values in enumerate(pool.map(read_profile, [folder.slide(str(name)) for name in done.index])):
            X[row] = values
    uns = {"kind": PSEUDOBULK, "how": HOW, "scale": card.scale, "model": card.name, "fingerprint": model.fingerprint}
    profiles = AnnData(
        X, obs=obs, var=model.expected_r(), uns={UNS: uns} | ({"log1p": {}} if is_log(card.scale) else {})
    )
    profiles.strings_to_categoricals()
    with folder.writing(folder.pseudobulk) as draft:
        # Written in memory first: HDF5 cannot close a file on a full disk, and does not raise an OSError then.
        with h5py.File("profiles", "w", driver="core", backing_store=False) as file:
            write_elem(file, "/", profiles)
            del X, profiles  # as large as the file, which is copied next
            file.flush()
            content = file.id.get_file_image()
        draft.write_bytes(content)
