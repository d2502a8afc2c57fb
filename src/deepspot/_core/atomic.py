from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepspot.errors import InputError


def check_outside_stores(path: Path, *, replaced: bool = False) -> None:
    """Raise if a path is a zarr store, such as that of a slide, or inside one, which would break it.

    With `replaced`, it can be a store: the caller replaces it as a whole.
    """
    path = path.resolve()
    for parent in path.parents if replaced else (path, *path.parents):
        if (parent / "zarr.json").exists() or (parent / ".zgroup").exists():
            where = "a store" if parent == path else f"inside the store {str(parent)!r}"
            raise InputError(f"{str(path)!r} is {where}. Choose a path outside of it.")


@contextmanager
def replace_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path in a temporary folder next to `path`, and rename what is written there to `path` on success.

    The parent of `path` is created if it does not exist. With `overwrite`, an existing folder is replaced; it stays if
    writing or renaming fails. Otherwise it is an error, also if it was created meanwhile. On Linux, both folders are
    exchanged in one step, if the file system supports it. Elsewhere the old folder is renamed first, so a process that
    is killed between the two steps leaves both folders in the temporary one. The temporary folder can be used for
    other files; it is deleted at the end unless the process is killed.
    """
    check_outside_stores(path, replaced=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", ignore_cleanup_errors=True) as scratch:
        new, old = Path(scratch) / path.name, Path(scratch) / f"old-{path.name}"
        yield new
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} was created meanwhile. Choose another path, or pass `overwrite=True`.")
        rename_over(new, path, old)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder next to `path`, and rename the file written there to `path` on success.

    An existing file is replaced in one step; it stays if writing fails.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", ignore_cleanup_errors=True) as scratch:
        new = Path(scratch) / path.name
        yield new
        _synchronize(Path(scratch))
        new.replace(path)


def rename_over(new: Path, path: Path, old: Path) -> None:
    """Rename a folder to `path`. An existing folder there becomes `old`, or `new` if both are exchanged in one step."""
    _synchronize(new)
    if path.exists():
        if _exchange(new, path):
            return
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise


def _synchronize(folder: Path) -> None:
    """Write the content of a folder to the disk: after a power cut, it could be renamed but empty."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        elif os.name == "posix":
            handle = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # some network file systems cannot synchronize folders
                os.fsync(handle)
            os.close(handle)


AT_FDCWD, RENAME_EXCHANGE = -100, 2
# The kernel, the C library or the file system does not know the call.
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step, which only Linux can; return whether it was done."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))
