"""Files of the viewer: the page, and a folder beside it with the image tiles that do not fit into the page."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.atomic import replace_folder
from deepspot._core.html import write_file
from deepspot._core.logging import logger

from .pyramid import write_levels

if TYPE_CHECKING:
    from xarray import DataArray

    from .pyramid import ImageLevel

ABOUT = "about_these_tiles.txt"
"""File by which a folder of tiles is recognized: no other folder is replaced."""


def check_folder(path: Path, *, overwrite: bool) -> Path:
    """Return the folder of the tiles of a page, such as ``view_tiles``; raise if it exists and cannot be replaced."""
    folder = path.with_name(f"{path.stem}_tiles")
    if not folder.exists():
        return folder
    if not (folder / ABOUT).is_file():
        raise FileExistsError(
            f"{str(folder)!r} has the name of the folder for image tiles, and is none. Choose another name of the page."
        )
    if not overwrite:
        raise FileExistsError(f"The folder {str(folder)!r} exists. Choose another name, or pass `overwrite=True`.")
    return folder


def write(path: Path, page: str, folder: Path, pyramid: list[DataArray], finer: list[ImageLevel]) -> None:
    """Write the page, and the tiles of the finer levels into the folder; an old folder without use is deleted."""
    if finer:
        n = sum(level.columns * level.rows for level in finer)
        logger.info("The image is larger than the page. Writing %s tiles to the folder %s …", f"{n:,}", folder)
        with replace_folder(folder, overwrite=folder.exists()) as new:
            new.mkdir()
            size = write_levels(pyramid, finer, new)
            (new / ABOUT).write_text(
                f"Image tiles of the page {path.name}, which shows them if it is in the same folder as "
                f"{folder.name}.\n",
                encoding="utf-8",
            )
        logger.info("Wrote the image tiles %s (%.1f MB). Move them together with the page.", folder, size / 1e6)
    write_file(path, page)
    logger.info("Wrote the viewer %s (%.1f MB).", path, len(page.encode()) / 1e6)
    if not finer and folder.exists():
        shutil.rmtree(folder)
