from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._logging import logger
from deepspot._settings import settings

from ._files import IMAGES, SHA256, URL, files
from ._read import is_prepared, is_raw, read_prepared, read_raw

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

DIAMETER_UM = 100.0
HINT = (
    "Get it on a machine with internet with `deepspot.datasets.her2st({section!r})` and copy the folder {cache} here, "
    "or point the environment variable DEEPSPOT_DATA at a folder that holds 'her2st_raw' (a clone of "
    "github.com/almaan/her2st)."
)


def her2st(section: str, *, download: bool = True) -> SpatialData:
    """Read one section of the HER2-positive breast cancer data set (HER2ST).

    Spatial Transcriptomics, spots of 100 µm, 200 µm apart; 36 sections of 8 patients: A1–A6, B1–B6, C1–C6, D1–D6,
    E1–E3, F1–F3, G1–G3, H1–H3. Sections of one patient are near-replicates: compare models across patients.

    The section is looked up in ``$DEEPSPOT_DATA/her2st_raw`` (the authors' repository), in ``$DEEPSPOT_DATA/her2st``
    (``<section>.h5ad`` and ``<section>.jpg``, cropped to the tissue), and in the cache; else it is downloaded once from
    the authors' repository, at a fixed commit.

    Parameters
    ----------
    section
        Patient and number, for example ``"C2"``.
    download
        Whether the section may be downloaded (about 5 MB).

    Returns
    -------
    A SpatialData with the H&E image, the circles ``spots`` and the table ``table``: raw counts in `X` (CSR, int32), and
    ``array_row``, ``array_col``, ``patient``, ``section`` in ``obs``.

    Raises
    ------
    KeyError
        If there is no such section.
    FileNotFoundError
        If the section is not on this machine, and `download` is False.
    ConnectionError
        If the section cannot be downloaded.
    ValueError
        If a downloaded file differs from the one that is known.

    Notes
    -----
    Andersson et al., Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
    interactions. Nature Communications 12, 6012 (2021). https://doi.org/10.1038/s41467-021-26271-2. The data are
    licensed CC BY 4.0: cite the article when you use them.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.her2st("C2")  # doctest: +SKIP
    """
    from deepspot.io import from_anndata

    if section not in IMAGES:
        raise KeyError(f"Section `{section!r}` not found in the HER2ST data. Available sections: {list(IMAGES)}.")
    adata, image, mpp = _read(section, download)
    return from_anndata(adata, image, mpp=mpp, spot_diameter_um=DIAMETER_UM, name=section)


def _read(section: str, download: bool) -> tuple[AnnData, Path, float]:
    local = os.environ.get("DEEPSPOT_DATA")
    if local and is_raw(Path(local) / "her2st_raw", section):
        return read_raw(Path(local) / "her2st_raw", section)
    if local and is_prepared(Path(local) / "her2st", section):
        return read_prepared(Path(local) / "her2st", section)
    cache = settings.cache("her2st")
    if not is_raw(cache, section):
        where = f"Section {section!r} is neither in DEEPSPOT_DATA ({local or 'not set'}) nor in the cache"
        hint = HINT.format(section=section, cache=cache)
        if not download:
            raise FileNotFoundError(f"{where}, and `download=False`. {hint}")
        try:
            _download(section, cache)
        except OSError as error:
            raise ConnectionError(f"{where}, and could not be downloaded ({type(error).__name__}). {hint}") from error
    return read_raw(cache, section)


def _download(section: str, folder: Path) -> None:
    """Fetch the files of a section into `folder`, in the layout of the authors' repository."""
    import pooch

    for path in files(section):
        known = SHA256.get(path)
        target = folder / path
        if known is None and target.is_file():
            continue
        pooch.retrieve(URL + path, known_hash=known and f"sha256:{known}", fname=target.name, path=target.parent)
        if known is None:
            logger.info("Downloaded %s, SHA-256 %s (none is known to compare with).", path, pooch.file_hash(target))
