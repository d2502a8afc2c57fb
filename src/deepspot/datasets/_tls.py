from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot.errors import MissingKeyError
from deepspot.io._elements import PITCH_UM, VISIUM_UM

from ._published import Files, Source, check_name, fetch_from_url, unpack, with_endings
from ._tables import add_facts, authors_centers, counts_of, lay_on_image, mpp_from_spots, read_table, rename_authors

if TYPE_CHECKING:
    from spatialdata import SpatialData

DOI = "10.5281/zenodo.14620362"
TOP = "TLS_VISIUM_USZ"
ARCHIVE = f"{TOP}.zip"
MEMBERS = {"table": TOP + "/h5ad_preprocessed/{}.h5ad", "image": TOP + "/tif_slides/{}.tif"}
MEMBER_GB = 20.0
SOURCE = Source(
    name="tls",
    title="the kidney and lung sections with TLS",
    page="https://zenodo.org/records/14620362",
    license="CC BY 4.0",
    citation=f"Dawo, Nonchev and Silina, Zenodo (2025), https://doi.org/{DOI}",
    layouts={
        "published": {part: [member, member.removeprefix(f"{TOP}/")] for part, member in MEMBERS.items()},
        "authors": {
            "table": ["data/h5ad/{}.h5ad", "h5ad/{}.h5ad"],
            "image": [*with_endings("data/image/{}"), *with_endings("image/{}")],
        },
        "flat": {"table": ["{}.h5ad"], "image": with_endings("{}")},
    },
    files=f"{ARCHIVE!r}, or 'h5ad_preprocessed' and 'tif_slides' of it, as `folder=`, or as 'tls' in DEEPSPOT_DATA",
)
SAMPLES = ("KC1", "KC2", "KC3", "LC1", "LC2", "LC3", "LC4", "LC5")
POOR = ("KC2", "LC4")
ORGANS = {"KC": "Kidney", "LC": "Lung"}


def tls(
    sample: str, *, folder: str | Path | None = None, download: bool = True, mpp: float | None = None
) -> SpatialData:
    """Read one section of kidney or lung cancer with tertiary lymphoid structures, annotated by spot.

    Visium (FFPE, human probe set 1) of 3 kidney and 5 lung tumors: ``"KC1"`` to ``"KC3"`` and ``"LC1"`` to ``"LC5"``.
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
        Name, page, license and citation.

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
        raise MissingKeyError(f"Sample `{sample!r}` not found in {SOURCE.title}. Available samples: {list(SAMPLES)}.")
    if mpp is not None:
        check_positive(mpp, "mpp")
    files = _find(sample, folder, download)
    path = files.paths["table"]
    adata = read_table(path)
    centers = authors_centers(adata.obs, path.name)
    adata.obs = rename_authors(adata.obs)
    scale = mpp_from_spots(centers, adata.obs, PITCH_UM) if mpp is None else float(mpp)
    table = counts_of(adata, path)
    facts = {"sample": sample, "patient": sample, "organ": ORGANS[sample[:2]], "technology": "Visium"}
    table.obs = add_facts(table.obs, facts)
    if sample in POOR:
        logger.warning("The authors left %s out of their training for poor quality.", sample)
    attrs = SOURCE.attrs(sample, technology="Visium")
    return lay_on_image(attrs, files.paths["image"], table, centers, mpp=scale, diameter_um=VISIUM_UM)


def _find(sample: str, folder: str | Path | None, download: bool) -> Files:
    """Files of a section on this machine, unpacked or downloaded if they are not here."""
    archives = [place / ARCHIVE for place in SOURCE.places(folder)]
    archive = next((path for path in archives if path.is_file()), None)
    found = SOURCE.find(sample, folder, download=download or archive is not None)
    if isinstance(found, Files):
        return found
    if archive is None:
        archive = fetch_from_url(SOURCE, f"doi:{DOI}", ARCHIVE, found)
    paths = {}
    for part, member in MEMBERS.items():
        inside = member.format(sample)
        target = SOURCE.cache / inside
        paths[part] = target if target.is_file() else unpack(archive, target, MEMBER_GB, member=inside)
    return Files("published", paths)
