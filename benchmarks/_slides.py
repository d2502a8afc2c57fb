"""Real slides as files: sections of the HER2-positive breast cancer data as pyramidal TIFFs, and an Aperio slide."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

import deepspot as ds
from deepspot._spatial.transforms import place_spots

SVS = "CMU-1-Small-Region"
LEVELS, TILE = 3, 256


def write(names: list[str], folder: Path) -> pd.DataFrame:
    """Write sections as TIFFs and copy the Aperio slide; return a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        path = folder / f"{name}.tiff"
        if not path.exists():
            sdata = ds.datasets.her2st(name)
            image = sdata.images[f"{name}_image"]
            level = image["scale0"]["image"] if hasattr(image, "children") else image
            pyramid(path, level.to_numpy().transpose(1, 2, 0), place_spots(sdata, f"{name}_image", "spots").mpp)
        rows.append({"path": str(path), "patient": name[0]})
    copy = folder / f"{SVS}.svs"
    shutil.copy(Path(os.environ["DEEPSPOT_DATA"]) / "wsi" / f"{SVS}.svs", copy)
    copy.chmod(0o644)
    return pd.DataFrame([*rows, {"path": str(copy), "patient": "CMU-1"}])


def pyramid(path: Path, image: np.ndarray, mpp: float) -> None:
    """Write RGB (height, width, 3) as a tiled TIFF with two smaller levels."""
    draft = path.with_suffix(".part")
    with tifffile.TiffWriter(draft) as tiff:
        for level in range(LEVELS):
            step = 2**level
            tiff.write(
                np.ascontiguousarray(image[::step, ::step]),
                tile=(TILE, TILE),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 0),
                metadata=None,
                resolution=(1e4 / mpp / step,) * 2,
                resolutionunit="CENTIMETER",
            )
    draft.rename(path)
