"""The folder of a cohort: where things lie, who may work in it, and how a result appears in it all at once.

A result is made under ``.work``, in a new folder for each attempt, and gets its place by a rename. So whatever has a
place is whole, at whichever moment the process is killed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from deepspot.errors import InputError

LOCK, ALIVE, STARTED = ".lock", "alive", ".started"


@dataclass(frozen=True)
class Folder:
    """The folder of a cohort."""

    path: Path

    @property
    def model(self) -> Path:
        """The bundle of the model."""
        return self.path / "model"

    @property
    def runs(self) -> Path:
        """The run table."""
        return self.path / "runs.csv"

    @property
    def pseudobulk(self) -> Path:
        """The profiles of all slides."""
        return self.path / "pseudobulk.h5ad"

    @property
    def work(self) -> Path:
        """What is not finished."""
        return self.path / ".work"

    def slide(self, name: str) -> Path:
        """The store of a slide."""
        return self.path / "slides" / f"{name}.zarr"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep all others out, and throw away what an earlier process left unfinished."""
        from filelock import FileLock, Timeout

        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{str(self.path)!r} is a file. Choose a folder with `out`.")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / LOCK).exists():
            raise InputError(f"{str(self.path)!r} holds other things than a cohort. Choose another folder with `out`.")
        self.path.mkdir(parents=True, exist_ok=True)
        # The operating system frees it when a process dies, however that happens.
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Another process works in {str(self.path)!r}. Wait until it has finished, or choose another `out`."
            ) from None
        try:
            self.work.mkdir(exist_ok=True)
            (self.path / "slides").mkdir(exist_ok=True)
            for path in [*self.work.iterdir(), *self.path.glob(f".{self.model.name}-*")]:  # also a half-saved bundle
                if not path.name.endswith(STARTED):
                    self._discard(path)
            yield
        finally:
            lock.release()

    def deaths(self) -> dict[str, int]:
        """Slides during which a process died without a word, and how often."""
        marks = (path for path in self.work.glob(f"*{STARTED}") if path.is_file())
        return {path.name.removesuffix(STARTED): path.stat().st_size for path in marks}

    def forget(self, name: str) -> None:
        """Say that what became of a slide is known: nothing is left of its attempts, also where a worker was killed."""
        (self.work / f"{name}{STARTED}").unlink(missing_ok=True)
        self._discard(self.work / name)

    @contextmanager
    def attempt(self, name: str) -> Iterator[Path]:
        """A new folder to make the result of a slide in; it is gone afterwards."""
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
            # A worker that was taken for dead may be at the same slide: its attempt is its own.
            with suppress(OSError):
                (self.work / name).rmdir()
            if not (self.work / name).exists():
                (self.work / f"{name}{STARTED}").unlink(missing_ok=True)

    def place(self, attempt: Path, store: Path, name: str) -> None:
        """Give a finished result its place, in that of a former one."""
        # A worker may outlive who sent it. The next start tidies up, and what is written into the folder after that
        # must not pass for a whole result: what was there before, and this mark, are gone.
        if not (attempt / ALIVE).exists():
            raise FileNotFoundError(f"{str(attempt)!r} was tidied up by a later start, which does this slide itself.")
        with suppress(FileNotFoundError):
            self.slide(name).replace(attempt / "former")
        store.replace(self.slide(name))

    @contextmanager
    def writing(self, target: Path) -> Iterator[Path]:
        """A file to write instead of `target`, which is replaced by it when all went well."""
        draft = self.work / f"{uuid4().hex}{target.suffix}"
        try:
            yield draft
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _discard(self, path: Path) -> None:
        """Delete a file or folder, which is first moved away from where a process that still writes would find it."""
        trash = self.work / f"trash-{uuid4().hex}"
        with suppress(FileNotFoundError):
            path.replace(trash)
            if not trash.is_dir():
                trash.unlink()
        shutil.rmtree(trash, ignore_errors=True)
