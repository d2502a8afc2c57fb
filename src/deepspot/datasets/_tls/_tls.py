from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deepspot import _check
from deepspot._logging import logger
from deepspot.datasets._shared._array_scale import authors_centers, mpp_from_spots, renamed
from deepspot.datasets._shared._counts import counted
from deepspot.datasets._shared._h5ad import read_table
from deepspot.datasets._shared._published import DATASET, check_name
from deepspot.datasets._shared._spots_on_image import add_spots, inside, open_image
from deepspot.io._spot import VISIUM_UM
from deepspot.io._visium import PITCH_UM

from ._files import SAMPLES, SOURCE, find

if TYPE_CHECKING:
    from spatialdata import SpatialData

POOR = ("KC2", "LC4")
ORGANS = {"KC": "Kidney", "LC": "Lung"}


def tls(
    sample: str, *, folder: str | Path | None = None, download: bool = True, mpp: float | None = None
) -> SpatialData:
    """Read one section of kidney or lung cancer with tertiary lymphoid structures, annotated by spot.

    Visium (FFPE, human probe set 1) of 3 kidney and 5 lung tumours: ``"KC1"`` to ``"KC3"`` and ``"LC1"`` to ``"LC5"``.
    The authors left ``"KC2"`` and ``"LC4"`` out of their training for poor quality; ``"KC2"`` is the slide that the
    paper corrects.

    The section is looked up in `folder`, in ``$DEEPSPOT_DATA/tls`` and in the cache: as published
    (``h5ad_preprocessed/<sample>.h5ad`` and ``tif_slides/<sample>.tif``, unpacked or in ``TLS_VISIUM_USZ.zip``), or
    as the authors' pipeline lays files out (``h5ad/`` and ``image/``, also inside ``data/``), or side by side. Else the
    archive (2.1 GB) is downloaded once from Zenodo, and the two files of the section are unpacked.

    The scale follows from the array, whose spots are 100 µm apart.

    Parameters
    ----------
    sample
        Name of the section.
    folder
        Folder with the files, or with the archive.
    download
        Whether the archive may be downloaded.
    mpp
        µm per pixel of the image; by default from the spots.

    Returns
    -------
    A SpatialData with ``images["<sample>_image"]`` (not loaded, if it is tiled), the circles ``spots``, the table
    ``table`` and the coordinate systems ``"global"`` and ``"microns"``.

    ``X``
        Raw counts, CSR, int32.
    ``obs``
        That of the authors, with `array_row`, `array_col`, `pxl_row_in_fullres` and `pxl_col_in_fullres` for their
        `x_array`, `y_array`, `x_pixel` and `y_pixel` (their x runs down the image); `ground_truth`, the annotation
        (``TLS``, ``INFL``, ``TUM``, ``NOR``, ``LN``, ``UNASSIGNED``); `sample`, `organ`, and `patient`, which is the
        section: the record names no patients, and the authors hold out sections.
    ``attrs["deepspot_dataset"]``
        Name, page, licence and citation.

    Raises
    ------
    KeyError
        If there is no such section, or the table lacks a column.
    FileNotFoundError
        If the section is not on this machine, and `download` is False.
    ConnectionError
        If the archive cannot be downloaded.
    ValueError
        If a file is damaged, `X` holds no counts, or spots lie outside the image.

    Notes
    -----
    Licensed CC BY 4.0: Dawo, Nonchev and Silina, 10x Visium Spatial Transcriptomics Dataset: Kidney (3) and Lung (5)
    Cancer with Tertiary Lymphoid Structures, Zenodo (2025), https://doi.org/10.5281/zenodo.14620362. The layout of the
    archive is known from others who read it, and the columns from the authors' pipeline; we have not seen it.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.tls("LC1")  # doctest: +SKIP
    """
    if check_name(sample) not in SAMPLES:
        raise KeyError(f"Sample `{sample!r}` not found in {SOURCE.title}. Available samples: {list(SAMPLES)}.")
    if mpp is not None:
        _check.positive(mpp, "mpp")
    files = find(sample, folder, download)
    path = files.paths["table"]
    adata = read_table(path)
    centers = authors_centers(adata.obs, path.name)
    adata.obs = renamed(adata.obs)
    scale = mpp_from_spots(centers, adata.obs, PITCH_UM) if mpp is None else float(mpp)
    table = counted(adata, path)

    sdata = open_image(files.paths["image"], sample, scale)
    kept = inside(sdata, centers, sample)
    said = {"sample": sample, "patient": sample, "organ": ORGANS[sample[:2]], "technology": "Visium"}
    table.obs = table.obs.assign(**{key: pd.Categorical([value] * table.n_obs) for key, value in said.items()})
    add_spots(sdata, table[kept].copy(), centers[kept], mpp=scale, diameter_um=VISIUM_UM)
    sdata.attrs[DATASET] = SOURCE.said_of(sample, technology="Visium")
    if sample in POOR:
        logger.warning("The authors left %s out of their training for poor quality.", sample)
    logger.info(
        "Read %s: %s spots × %s genes, %.4g µm per pixel, spots of %g µm.",
        sample, f"{kept.sum():,}", f"{table.n_vars:,}", scale, VISIUM_UM,
    )  # fmt: skip
    return sdata
