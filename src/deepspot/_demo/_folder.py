from __future__ import annotations

import shutil
from pathlib import Path

MARKER = ".deepspot-demo"
CONTENT = ("model", "slide.zarr", "figures", "metrics.csv", "report.html")


def claim(out: Path) -> Path:
    """Make the folder for the results, or clear what an earlier demo wrote into it.

    Parameters
    ----------
    out
        A folder that does not exist, is empty, or was made by the demo.

    Raises
    ------
    FileExistsError
        If there is something else.
    """
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{str(out)!r} exists and was not made by `deepspot demo`, so nothing was written. Choose another folder "
            "with --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("Made by `deepspot demo`, which replaces its own files here when it is run again.\n")
    for name in CONTENT:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    (out / "figures").mkdir()
    return out
