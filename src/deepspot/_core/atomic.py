from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path in a temporary folder next to `path`, and rename what is written there to `path` on success.

    With `overwrite`, an existing folder is replaced; it stays if writing or renaming fails. Otherwise it is an error,
    also if it was created meanwhile. The temporary folder can be used for other files; it is deleted at the end unless
    the process is killed.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", ignore_cleanup_errors=True) as scratch:
        new, old = Path(scratch) / path.name, Path(scratch) / f"old-{path.name}"
        yield new
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} was created meanwhile. Choose another path, or pass `overwrite=True`.")
        if path.exists():  # a folder cannot be replaced in one step
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
