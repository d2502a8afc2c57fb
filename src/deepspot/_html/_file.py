"""Files of reports: checked before the work, and never half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_file(path: str | Path, *, overwrite: bool = False, option: str = "overwrite=True") -> Path:
    """Raise unless a page may be written here.

    Parameters
    ----------
    path
        Of the page.
    overwrite
        Whether a file of that name may be replaced.
    option
        How the user says so, for the message.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    FileExistsError
        If the file exists, or is a folder.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r} to write {path.name!r} into. Make it first, or choose another."
        )
    if path.is_dir():
        raise FileExistsError(f"{str(path)!r} is a folder. Pass the name of a file, such as 'report.html'.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Choose another name, or pass `{option}`.")
    return path


def write_file(path: Path, text: str) -> Path:
    """Write a page under another name first, so that a run that is stopped leaves no half of it."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(scratch).chmod(0o666 & ~umask)  # temporary files can be read by nobody else
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return path
