"""Output folder of a cohort: its paths, its lock, and atomic results.

A result is made in ``.work``, in a new folder for each attempt, and renamed when complete. So every result at its final
path is complete, whenever the process is killed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from deepspot._core.atomic import check_outside_stores, rename_over
from deepspot.errors import InputError

if TYPE_CHECKING:
    from deepspot.models import Model

LOCK, ALIVE, STARTED = ".lock", "alive", ".started"


class Folder:
    """Output folder of a cohort."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"  # bundle
        self.runs = path / "runs.csv"
        self.pseudobulk = path / "pseudobulk.h5ad"
        self.work = path / ".work"  # unfinished results

    def slide(self, name: str) -> Path:
        """Return the path of the store of a slide."""
        return self.path / "slides" / f"{name}.zarr"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Lock the folder against other processes, and delete unfinished results of earlier ones."""
        from filelock import FileLock, Timeout

        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{str(self.path)!r} is a file. Choose a folder with `out`.")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / LOCK).exists():
            raise InputError(f"{str(self.path)!r} is not the folder of a cohort, and not empty. Choose another `out`.")
        check_outside_stores(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)  # released by the operating system if the process is killed
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Another process uses {str(self.path)!r}. Wait until it has finished, or choose another `out`."
            ) from None
        try:
            self.work.mkdir(exist_ok=True)
            (self.path / "slides").mkdir(exist_ok=True)
            for path in self.work.iterdir():
                if not path.name.endswith(STARTED):
                    self._discard(path)
            yield
        finally:
            lock.release()

    def n_kills(self) -> dict[str, int]:
        """Return the slides during which a process was killed, and how often."""
        marks = (path for path in self.work.glob(f"*{STARTED}") if path.is_file())
        return {path.name.removesuffix(STARTED): path.stat().st_size for path in marks}

    def forget(self, name: str) -> None:
        """Delete the traces of attempts at a slide, also those of killed workers."""
        (self.work / f"{name}{STARTED}").unlink(missing_ok=True)
        self._discard(self.work / name)

    @contextmanager
    def attempt(self, name: str) -> Iterator[Path]:
        """Make a temporary folder for the result of a slide."""
        with (self.work / f"{name}{STARTED}").open("ab") as marker:
            marker.write(b"x")
        folder = None
        try:
            (self.work / name).mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=self.work / name))
            (folder / ALIVE).touch()
            yield folder
        finally:
            if folder is not None:
                self._discard(folder)
            # Another worker may be at the same slide, if this one was presumed dead. Its folder stays.
            with suppress(OSError):
                (self.work / name).rmdir()
            if not (self.work / name).exists():
                (self.work / f"{name}{STARTED}").unlink(missing_ok=True)

    def place(self, attempt: Path, store: Path, name: str) -> None:
        """Move a complete result to its path, replacing an earlier one."""
        # If this worker outlived its caller, the next start has deleted the attempt. Files that the worker writes
        # afterwards recreate the folder, incomplete and without this mark.
        if not (attempt / ALIVE).exists():
            raise FileNotFoundError(f"{str(attempt)!r} was deleted by a later start, which predicts this slide itself.")
        rename_over(store, self.slide(name), attempt / "former")

    def save_model(self, model: Model) -> None:
        """Save the model, replacing another or a damaged one when the new one is complete."""
        draft = Path(tempfile.mkdtemp(dir=self.work)) / self.model.name
        model.save(draft)
        rename_over(draft, self.model, draft.with_name("former"))
        self._discard(draft.parent)

    def drop_model(self) -> None:
        """Delete the bundle of another model."""
        self._discard(self.model)

    @contextmanager
    def writing(self, target: Path) -> Iterator[Path]:
        """Return a draft that replaces `target` if no error occurs."""
        draft = self.work / f"{uuid4().hex}{target.suffix}"
        try:
            yield draft
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _discard(self, path: Path) -> None:
        """Delete a file or folder. It is renamed first, so that a process that still writes does not find it."""
        trash = self.work / f"trash-{uuid4().hex}"
        with suppress(FileNotFoundError):
            path.replace(trash)
            if not trash.is_dir():
                trash.unlink()
        shutil.rmtree(trash, ignore_errors=True)
