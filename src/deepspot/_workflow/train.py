"""Training from a list of slides, as ``deepspot train`` does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepspot._core.logging import logger
from deepspot.cohort._run.manifest import read_manifest
from deepspot.errors import InputError

from .steps import is_store, read_slide

if TYPE_CHECKING:
    from spatialdata import SpatialData

# Columns of the manifest that are options of the reader of one slide.
READ = (
    "image",
    "image_scale",
    "mpp",
    "pitch_um",
    "diameter_um",
    "bin_um",
    "alignment_file",
    "library_id",
    "gene_id_key",
)
FILES = ("image", "alignment_file")


def run_train(
    manifest: Path,
    out: Path,
    *,
    keys: dict[str, Any],
    card: dict[str, str],
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Read the slides of a manifest, train a model on them and save it.

    `keys` are fields of :class:`deepspot.models.SlideKeys`, `card` those of the card, and `options` arguments of
    :func:`deepspot.models.train`; None is left out. Files in the manifest are relative to its folder.
    """
    from deepspot import models

    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists. Pass --overwrite, or choose another name with --out.")
    rows = read_manifest(manifest)
    _check_rows(rows)
    logger.info("── Reading %d slides", len(rows))
    slides = {str(name): _read(row, manifest.parent) for name, row in rows.iterrows()}
    logger.info("── Training")
    given = {name: value for name, value in options.items() if value is not None}
    model = models.train(slides, patient_key=rows["patient"].to_dict(), keys=_given(keys), card=_given(card), **given)
    model.save(out, overwrite=overwrite)
    logger.info("Wrote the model %s.", out)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _check_rows(rows: pd.DataFrame) -> None:
    """Raise before the first slide is read if one does not exist or has no measured genes."""
    missing = [path for path in rows["path"] if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(f"Slides of the manifest do not exist: {', '.join(missing)}.")
    for path in map(Path, rows["path"]):
        if path.is_file() and path.suffix.lower() != ".h5ad":
            raise InputError(
                f"{path} is a file without measured genes. Training needs SpatialData .zarr, folders of Space Ranger "
                "or Xenium, or .h5ad; folders and .h5ad with a column `image` in the manifest."
            )


def _read(row: pd.Series, folder: Path) -> SpatialData:
    """Read the slide of a row of the manifest."""
    options = {name: row[name] for name in READ if name in row and pd.notna(row[name]) and row[name] != ""}
    options |= {name: folder / Path(options[name]).expanduser() for name in FILES if name in options}
    if "bin_um" in options:
        options["bin_um"] = int(options["bin_um"])
    path = Path(row["path"])
    if is_store(path):  # which has its image
        options.pop("image", None)
    return read_slide(path, options.pop("image", None), **options)
