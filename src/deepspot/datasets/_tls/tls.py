from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot.datasets._shared.array_scale import authors_centers, mpp_from_spots, renamed
from deepspot.datasets._shared.counts import counted
from deepspot.datasets._shared.h5ad import read_table
from deepspot.datasets._shared.published import (
    DATASET,
    Files,
    Source,
    absent,
    check_name,
    locate,
    way_out,
    with_endings,
)
from deepspot.datasets._shared.spots_on_image import add_spots, inside, open_image
from deepspot.datasets._shared.unpack import unzip
from deepspot.io._genes import VISIUM_UM
from deepspot.io._visium import PITCH_UM

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
        check_positive(mpp, "mpp")
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


RECORD = "14620362"
TOP = "TLS_VISIUM_USZ"
ARCHIVE = f"{TOP}.zip"
URL = f"https://zenodo.org/records/{RECORD}/files/{ARCHIVE}?download=1"
SAMPLES = ("KC1", "KC2", "KC3", "LC1", "LC2", "LC3", "LC4", "LC5")
MEMBERS = {"table": TOP + "/h5ad_preprocessed/{}.h5ad", "image": TOP + "/tif_slides/{}.tif"}
MEMBER_GB = 20.0

SOURCE = Source(
    name="tls",
    title="the kidney and lung sections with TLS",
    page=f"https://zenodo.org/records/{RECORD}",
    licence="CC BY 4.0",
    citation="Dawo, Nonchev and Silina, Zenodo (2025), https://doi.org/10.5281/zenodo.14620362",
    layouts={
        "published": {part: [member, member.removeprefix(f"{TOP}/")] for part, member in MEMBERS.items()},
        "authors": {
            "table": ["data/h5ad/{}.h5ad", "h5ad/{}.h5ad"],
            "image": [*with_endings("data/image/{}"), *with_endings("image/{}")],
        },
        "flat": {"table": ["{}.h5ad"], "image": with_endings("{}")},
    },
    files=f"{ARCHIVE!r}, or 'h5ad_preprocessed' and 'tif_slides' from it",
)


def find(sample: str, folder: str | Path | None, download: bool) -> Files:
    """Files of a section on this machine, unpacked or downloaded if they are not here."""
    places = SOURCE.places(folder)
    files, nearly = locate(SOURCE, places, sample)
    if files is not None:
        return files
    archive = next((place / ARCHIVE for place in places if (place / ARCHIVE).is_file()), None)
    if archive is None:
        where, hint = absent(SOURCE, sample, folder, nearly), way_out(SOURCE, f"tls({sample!r})")
        if not download:
            raise FileNotFoundError(f"{where}, and `download=False`. {hint}")
        try:
            archive = _download(SOURCE.cache)
        except OSError as error:
            raise ConnectionError(f"{where}, and could not be downloaded ({type(error).__name__}). {hint}") from error
    paths = {}
    for part, member in MEMBERS.items():
        target = SOURCE.cache / member.format(sample)
        paths[part] = target if target.is_file() else unzip(archive, member.format(sample), target, MEMBER_GB)
    return Files("published", paths)


def _download(folder: Path) -> Path:
    """Fetch the archive."""
    import pooch

    path = Path(pooch.retrieve(URL, known_hash=None, fname=ARCHIVE, path=folder))
    logger.info("Downloaded %s, SHA-256 %s (none is known to compare with).", path, pooch.file_hash(str(path)))
    return path
