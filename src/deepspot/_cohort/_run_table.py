"""The run table: what became of every slide, on disk after each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from deepspot._logging import logger

from ._folder import Folder
from ._job import Outcome

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
