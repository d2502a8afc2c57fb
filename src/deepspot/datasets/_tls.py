from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot.errors import MissingKeyError
from deepspot.io._elements import PITCH_UM, VISIUM_UM, spots_in_tissue

from ._published import Files, Source, check_name, fetch_from_url, unpack, with_endings
from ._tables import add_facts, authors_centers, counts_of, mpp_from_spots, read_table, rename_authors, slide_object

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
    The authors excluded ``"KC2"`` and ``"LC4"`` because counts and morphology do not match (section 4.5.3 of the
    paper). ``"KC2"`` is the slide that section 2.4 corrects.

    The section is searched in `folder`, in ``$DEEPSPOT_DATA/tls`` and in the cache, in the published layout
    (``h5ad_preprocessed/<sample>.h5ad`` and ``tif_slides/<sample>.tif``, unpacked or in ``TLS_VISIUM_USZ.zip``), the
    layout of the authors' pipeline (``h5ad/`` and ``image/``, also in ``data/``), or both files in one folder.
    Otherwise the archive (2.1 GB) is downloaded once from Zenodo, and the two files of the section are unpacked.

    The scale is computed from the spots, which are 100 µm apart.

    Parameters
    ----------
    sample
        Name of the section.
    folder
        Folder with the files, or with the archive.
    download
        Download the archive if the section is not on this machine.
    mpp
        µm per pixel of the image. By default computed from the spots.

    Returns
    -------
    A SpatialData with ``images["<sample>_image"]`` (lazy if it is tiled), the circles ``spots``, the table
    ``table`` and the coordinate systems ``"global"`` and ``"microns"``.

    ``X``
        Raw counts, CSR, int32.
    ``obs``
        Columns of the authors, with `x_array`, `y_array`, `x_pixel` and `y_pixel` (x is the row) renamed to
        `array_row`, `array_col`, `pxl_row_in_fullres` and `pxl_col_in_fullres`; the annotation `ground_truth`
        (``TLS``, ``INFL``, ``TUM``, ``NOR``, ``LN``, ``UNASSIGNED``); `sample`, `organ`, `technology`, and `patient`,
        which is the section: the record has no patients, and the authors hold out sections.
    ``attrs["deepspot_dataset"]``
        Name, page, license and citation.

    Raises
    ------
    KeyError
        If the section or a column of the table does not exist.
    FileNotFoundError
        If the section is not on this machine, and `download` is False.
    ConnectionError
        If the archive cannot be downloaded.
    ValueError
        If a file is damaged, `X` has no counts, or spots are outside the image.

    Notes
    -----
    Licensed CC BY 4.0: Dawo, Nonchev and Silina, 10x Visium Spatial Transcriptomics Dataset: Kidney (3) and Lung (5)
    Cancer with Tertiary Lymphoid Structures, Zenodo (2025), https://doi.org/10.5281/zenodo.14620362. The layout of the
    archive was taken from public code that reads it, and the columns from the authors' pipeline. This function has not
    been tested on the archive itself.

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
    adata = spots_in_tissue(read_table(path), sample)
    centers = authors_centers(adata.obs, path.name)
    table = counts_of(adata, path)
    table.obs = rename_authors(table.obs)
    scale = mpp_from_spots(centers, table.obs, PITCH_UM) if mpp is None else float(mpp)
    facts = {"sample": sample, "patient": sample, "organ": ORGANS[sample[:2]], "technology": "Visium"}
    table.obs = add_facts(table.obs, facts)
    if sample in POOR:
        logger.warning("The authors excluded %s because counts and morphology do not match.", sample)
    attrs = SOURCE.attrs(sample, technology="Visium")
    return slide_object(attrs, files.paths["image"], table, centers, mpp=scale, diameter_um=VISIUM_UM)


def _find(sample: str, folder: str | Path | None, download: bool) -> Files:
    """Find the files of a section, unpack them, or download the archive."""
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
