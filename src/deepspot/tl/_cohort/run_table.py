"""The run table: what became of every slide, on disk after each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import PSEUDOBULK, UNS
from deepspot._core.logging import bar, logger

from .folder import Folder
from .job import Outcome
from .run_slide import HOW, PROFILE, TABLE

if TYPE_CHECKING:
    from anndata import AnnData

    from deepspot.models import DeepSpot


DONE, FAILED, WAITING = "done", "failed", "waiting"
DTYPES = {
    "path": object, "patient": object, "status": object, "seconds": "float64", "spots": "Int64", "ood_share": "float64",
    "error": object,
}  # fmt: skip


@dataclass
class RunTable:
    """What became of the slides of a manifest.

    Attributes
    ----------
    folder
        Where it is kept. Only the process that holds the folder writes it.
    frame
        One row for each slide.
    """

    folder: Folder
    frame: pd.DataFrame

    @classmethod
    def start(cls, folder: Folder, manifest: pd.DataFrame, known: Iterable[Outcome]) -> RunTable:
        """A table in which all slides wait but those whose outcome is known."""
        frame = pd.DataFrame(index=manifest.index.copy())
        frame.index.name = "slide"
        for column, dtype in DTYPES.items():
            frame[column] = manifest[column] if column in manifest else pd.Series(None, index=frame.index, dtype=dtype)
        frame["status"] = WAITING
        table = cls(folder, frame)
        for outcome in known:
            table.put(outcome)
        return table

    def put(self, outcome: Outcome) -> None:
        """Enter what became of a slide."""
        row, frame = outcome.slide, self.frame
        frame.loc[row, "status"] = DONE if outcome.done else FAILED
        for column in ("seconds", "spots", "ood_share", "error"):
            value = getattr(outcome, column)
            frame.loc[row, column] = pd.NA if value is None and column == "spots" else value

    def save(self, *, last: bool = False) -> None:
        """Write it; the table that was there stays whole until the new one is. A full disk is an error only at last."""
        try:
            with self.folder.writing(self.folder.runs) as draft:
                self.frame.to_csv(draft)
        except OSError as error:
            if last:
                raise
            logger.warning("The run table could not be written after this slide (%s).", error)

    def count(self, status: str) -> int:
        """How many slides there are of a status."""
        return int((self.frame["status"] == status).sum())


class Progress:
    """One bar over the cohort; where the output is no terminal, one line for each slide.

    Parameters
    ----------
    sizes
        Size of every slide that is to be done, in any unit.
    total, done
        Number of slides of the cohort, and of those that were finished before.
    workers
        Says how many slides are worked on at once.
    """

    def __init__(self, sizes: Mapping[str, float], total: int, done: int, workers: Callable[[], int]) -> None:
        self.left = dict(sizes)
        self.total, self.finished, self.failed, self.workers = total, done, 0, workers
        self.seconds = self.size = 0.0

    def __enter__(self) -> Progress:
        self.bar = bar("Slides", total=self.total, unit="slide")
        # tqdm's own estimate takes all slides for equal.
        self.bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
        self.bar.update(self.finished)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def tell(self, outcome: Outcome) -> None:
        """Say that a slide has come to its end."""
        size = self.left.pop(outcome.slide, 0.0)
        self.finished += 1
        self.failed += not outcome.done
        if outcome.done and outcome.seconds is not None:
            self.seconds, self.size = self.seconds + outcome.seconds, self.size + size
        left = self.time_left()
        said = [f"{self.failed} failed"] * bool(self.failed) + ([f"about {left} left"] if left else [])
        self.bar.set_postfix_str(", ".join(said), refresh=False)
        self.bar.update()
        if self.bar.disable:
            logger.info("%s", ", ".join([f"{self.finished}/{self.total} slides", *said]))

    def time_left(self) -> str:
        """How long it will take, in words; nothing if that is not known, or nothing is left."""
        if not self.left or not self.size:
            return ""
        at_once = max(1, min(self.workers(), len(self.left)))
        return in_words(sum(self.left.values()) * self.seconds / self.size / at_once)


def in_words(seconds: float) -> str:
    """A time as people say it."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return "a minute"
    if minutes < 100:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"


def collect(folder: Folder, manifest: pd.DataFrame, table: RunTable, model: DeepSpot) -> AnnData:
    """Profiles (slides, genes) of the slides that are done, with their rows of the manifest as `obs`."""
    import zarr
    from anndata import AnnData

    card = model.card
    done = table.frame[table.frame["status"] == DONE]
    rows = [
        zarr.open_array(folder.slide(str(name)) / "tables" / TABLE / "var" / PROFILE, mode="r")[:]
        for name in done.index
    ]
    obs = manifest.loc[done.index].assign(
        slide=done.index,
        spots=done["spots"].to_numpy(dtype=np.int64),
        ood_share=done["ood_share"].to_numpy(dtype=np.float64),
    )
    obs.index.name = None
    X = np.asarray(rows, dtype=np.float32).reshape(len(done), len(card.genes))
    made = {
        "kind": PSEUDOBULK, "how": HOW, "scale": card.scale, "model": card.name, "fingerprint": model.fingerprint,
    }  # fmt: skip
    return AnnData(X, obs=obs, var=model.expected_r(), uns={UNS: made, "log1p": {}})


def save(folder: Folder, manifest: pd.DataFrame, table: RunTable, model: DeepSpot) -> None:
    """Write the profiles; a file that was there stays whole until the new one is."""
    with folder.writing(folder.pseudobulk) as draft:
        draft.write_bytes(_as_h5ad(collect(folder, manifest, table, model)))


def _as_h5ad(profiles: AnnData) -> bytes:
    """An h5ad file, made in memory: HDF5 cannot close a file on a full disk, and says so in ways of its own."""
    import h5py
    from anndata.io import write_elem

    profiles.strings_to_categoricals()
    with h5py.File("profiles", "w", driver="core", backing_store=False) as file:
        write_elem(file, "/", profiles)
        file.flush()
        return file.id.get_file_image()
