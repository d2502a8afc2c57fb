from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepspot._core.hashing import digest
from deepspot._core.keys import PREDICTION, SCALE, SLIDE, UNS, prediction_name, valid_name
from deepspot._core.logging import logger
from deepspot.datasets._shared.array_scale import authors_centers, renamed
from deepspot.datasets._shared.published import DATASET
from deepspot.datasets._shared.spots_on_image import add_spots, image_of
from deepspot.datasets._shared.unpack import gunzip

from .content import Content, load
from .files import SOURCE
from .scale import grid, microns, shrinkage

if TYPE_CHECKING:
    from spatialdata import SpatialData

BARCODE = re.compile(r"(TCGA-\w{2}-\w{4})(?:-\w+)*?-(DX|TS|BS|MS)")
TYPES = {"DX": "FFPE", "TS": "FF", "BS": "FF", "MS": "FF"}
BULK = "bulk_"
STANDARDISED = 0.4
RGB = 3


def read(
    path: Path,
    sample: str,
    cohort: str | None,
    *,
    mpp: float | None,
    genes: str | Sequence[str] | None,
    diameter_um: float | None,
    max_gb: float,
) -> SpatialData:
    """Read a slide that the authors predicted from its file, compressed or not."""
    if path.suffix != ".gz":
        content = load(path, genes)
    else:
        SOURCE.cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=SOURCE.cache) as folder:
            content = load(gunzip(path, Path(folder) / path.stem, max_gb), genes)
    return _build(content, path, sample, cohort, mpp, diameter_um)


def _build(
    content: Content, path: Path, sample: str, cohort: str | None, mpp: float | None, diameter_um: float | None
) -> SpatialData:
    from anndata import AnnData
    from spatialdata import SpatialData, sanitize_table

    centers = authors_centers(content.obs, path.name)
    shrunk = shrinkage(content, centers)
    scale = microns(content, shrunk, sample, mpp)
    tile_px = grid(content.obs)
    if diameter_um is None and tile_px is None:
        raise ValueError(
            f"The size of a spot is unknown: the places in {path.name} do not follow the authors' grid. State "
            "`spot_diameter_um=`: the side of the tile that was predicted from."
        )
    diameter = float(diameter_um or tile_px * scale)  # type: ignore[operator]
    if content.negative > STANDARDISED:
        logger.warning(
            "%.0f %% of the values of %s are below 0, which count as 0: they may be standardised, and not expression.",
            100 * content.negative, sample,
        )  # fmt: skip

    bulk = [column for column in content.var.columns if str(column).startswith(BULK)]
    obs = renamed(content.obs)
    obs = obs.assign(**{key: pd.Categorical([value] * len(obs)) for key, value in _told(sample, cohort).items()})
    table = AnnData(content.X, obs=obs, var=content.var.drop(columns=bulk))
    sanitize_table(table)  # columns are named after classes, with spaces
    if bulk:
        # Not in var: that of a first slide goes on to the profiles of all.
        table.varm["bulk"] = content.var[bulk].astype(float)
    table.uns = {"log1p": {}, UNS: _provenance(content, cohort)}
    sdata = SpatialData()
    if content.image is not None and shrunk is not None:
        sdata = image_of(content.image[..., :RGB], f"{valid_name(sample)}_thumbnail", shrunk=shrunk)
    add_spots(sdata, table, centers, mpp=scale, diameter_um=diameter, table_key=prediction_name("spots"))
    sdata.attrs[SLIDE] = {"name": sample, "mpp": scale, "mpp_from": "file" if mpp is None else "argument"}
    sdata.attrs[DATASET] = SOURCE.said_of(sample, cohort=cohort)
    logger.info(
        "Read %s: %s spots × %s genes that the authors predicted, %.4g µm per pixel, tiles of %.0f µm.",
        sample, f"{table.n_obs:,}", f"{table.n_vars:,}", scale, diameter,
    )  # fmt: skip
    return sdata


def _told(sample: str, cohort: str | None) -> dict[str, str]:
    """What the name of a slide tells."""
    barcode = BARCODE.match(sample)
    told = {"sample": sample} | ({} if cohort is None else {"cohort": cohort})
    return told if barcode is None else told | {"patient": barcode[1], "slide_type": TYPES[barcode[2]]}


def _provenance(content: Content, cohort: str | None) -> dict[str, Any]:
    return {
        "kind": PREDICTION,
        "scale": SCALE,
        "model": f"the authors' DeepSpot, {cohort or 'cohort unknown'}",
        # The weights are not at hand, but slides of one model have the same genes in the same order.
        "fingerprint": digest(content.all_genes),
        "licence": f"{SOURCE.licence}: {SOURCE.page}",
        "resolution": "spot",
        "expected_r_from": "not measured",
    }
