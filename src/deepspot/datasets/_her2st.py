from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.logging import logger
from deepspot.errors import InputError, MissingKeyError
from deepspot.io._elements import reading

from ._published import Files, Source, fetch_from_url
from ._tables import add_facts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

COMMIT = "85df7411b987a7dec3feff9718b869a7a82091ec"
URL = f"https://github.com/almaan/her2st/raw/{COMMIT}/"
SOURCE = Source(
    name="her2st",
    title="the HER2ST data",
    page="https://github.com/almaan/her2st",
    license="CC BY 4.0",
    citation="Andersson et al., Nature Communications 12, 6012 (2021), https://doi.org/10.1038/s41467-021-26271-2",
    layouts={
        "raw": {
            "counts": ["data/ST-cnts/{}.tsv.gz"],
            "spots": ["data/ST-spotfiles/{}_selection.tsv"],
            "image": ["data/ST-imgs/*/{}/*.jpg"],
        },
        "prepared": {"table": ["{}.h5ad"], "image": ["{}.jpg"]},
    },
    files="a clone of github.com/almaan/her2st, as 'her2st_raw' in DEEPSPOT_DATA",
    folders=("her2st_raw", "her2st"),
)

PITCH_UM, DIAMETER_UM = 200.0, 100.0
# By patient: pattern of the image names, and the array well of section 1, 2, ….
_PATTERNS = {
    "A": ("9769_{}_HE_small.jpg", "C1 C2 D1 D2 E1 E2"),
    "B": ("BT10737_{}_HE.jpg", "C1 C2 D1 D2 E1 E2"),
    "C": ("5714_HE_BT_{}.jpg", "C1 C2 D1 D2 E1 E2"),
    "D": ("10426_HE_BT_{}.jpg", "C1 C2 D1 D2 E1 E2"),
    "E": ("HE_BT23567_{}.jpg", "D2 E1 E2"),
    "F": ("HE_BT23810_{}.jpg", "D2 E1 E2"),
    "G": ("HE_BT23903_{}.jpg", "C1a C2a D1a"),
    "H": ("HE_BT24044_{}.jpg", "D2 E1 E2"),
}

IMAGES = {
    f"{patient}{number}": pattern.format(well)
    for patient, (pattern, wells) in _PATTERNS.items()
    for number, well in enumerate(wells.split(), start=1)
}
"""Image file of each of the 36 sections."""

SHA256 = {
    "data/ST-cnts/B4.tsv.gz": "e38231c2a38c9bc7e6d550eec0e527c1869ee0e525fc913e708d1323c34f5ebb",
    "data/ST-spotfiles/B4_selection.tsv": "192b46f3ca414c85753a01a4fb5760a697ca6c0a1aadb949c4687cc6efa9faa0",
    "data/ST-imgs/B/B4/BT10737_D2_HE.jpg": "3cb165614ce2a13426381e450220dccac980cc9bda6a90fb041c28ca0e2c753d",
    "data/ST-cnts/C2.tsv.gz": "c1c59ea6cffae36b9ecb561b8e2a97e3aa5f4085f748e991a0e330ed9d09773d",
    "data/ST-spotfiles/C2_selection.tsv": "235b5f4306b3b57c628ffc82c98c7109602474fbcc79a917b9c50517f99b6b1c",
    "data/ST-imgs/C/C2/5714_HE_BT_C2.jpg": "26e2f73ae840cdd46c5bba405aae181f13a56a376b9848dff23f7a9c5de7f19e",
    "data/ST-cnts/C3.tsv.gz": "e00c55a3eb9caac5d9c71b8906aae8be8b38f93e23938f4a0ebee17683ef6a2a",
    "data/ST-spotfiles/C3_selection.tsv": "7fd76c13370b7804ac3bb377b846d22485cf9223f9dd8dfc25be06e5aaf65755",
    "data/ST-imgs/C/C3/5714_HE_BT_D1.jpg": "0005a92674014d473040a28f0afca89ce5fa5c44019b479b638ceb3272ceb568",
    "data/ST-cnts/C4.tsv.gz": "33201f76d41d7131dc600a0f87d9a70383af3503e81698b4d11e6f2e8d73e9da",
    "data/ST-spotfiles/C4_selection.tsv": "47e79f3b9dbfa3a8c18af9e948ba7ba4bf0a75ea1b4c292bc714ced7d0917d4c",
    "data/ST-imgs/C/C4/5714_HE_BT_D2.jpg": "f40607eb1d5f0d125decd71c48b0c5d29cf6776ad92297fd185631208c82d6f2",
    "data/ST-cnts/C5.tsv.gz": "c0f310315ca6110d74dbdf7011e5b42432ba0b8eb5f001824764911988f39338",
    "data/ST-spotfiles/C5_selection.tsv": "2114cc3b4da759772112897f1e247d5443c9f8c808e6a9a952eb4fda379a194c",
    "data/ST-imgs/C/C5/5714_HE_BT_E1.jpg": "34028ea41e376396b50c42b0a11a7e689c85be4a8022e668d0a09cc128c04c65",
}
"""Known checksums; other files are trusted on first download."""


def her2st(section: str, *, download: bool = True) -> SpatialData:
    """Read one section of the HER2-positive breast cancer data set (HER2ST).

    Spatial Transcriptomics with spots of 100 µm, 200 µm apart. 36 sections of 8 patients: A1–A6, B1–B6, C1–C6, D1–D6,
    E1–E3, F1–F3, G1–G3, H1–H3. Sections of one patient are near-replicates: compare models across patients.

    The section is searched in ``$DEEPSPOT_DATA/her2st_raw`` (the authors' repository), in ``$DEEPSPOT_DATA/her2st``
    (``<section>.h5ad`` and ``<section>.jpg``, cropped to the tissue), and in the cache. Otherwise it is downloaded once
    from a fixed commit of the authors' repository.

    Parameters
    ----------
    section
        Patient and number, for example ``"C2"``.
    download
        Download the section (about 5 MB) if it is not on this machine.

    Returns
    -------
    A SpatialData with the H&E image, the circles ``spots`` and the table ``table``: raw counts in `X` (CSR, int32), and
    ``array_row``, ``array_col``, ``patient``, ``section`` in ``obs``.

    Raises
    ------
    KeyError
        If the section does not exist.
    FileNotFoundError
        If the section is not on this machine, and `download` is False.
    ConnectionError
        If the section cannot be downloaded.
    ValueError
        If the checksum of a downloaded file is wrong.

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
        raise MissingKeyError(
            f"Section `{section!r}` not found in the HER2ST data. Available sections: {list(IMAGES)}."
        )
    found = _find(section, download)
    read, part = (read_raw, "counts") if found.layout == "raw" else (read_prepared, "table")
    with reading(found.paths[part], "table of HER2ST"):
        adata, mpp = read(found.paths, section)
    return from_anndata(adata, found.paths["image"], mpp=mpp, diameter_um=DIAMETER_UM, name=section)


def files(section: str) -> dict[str, str]:
    """Return the paths of the files of a section in the authors' repository."""
    return {
        "counts": f"data/ST-cnts/{section}.tsv.gz",
        "spots": f"data/ST-spotfiles/{section}_selection.tsv",
        "image": f"data/ST-imgs/{section[0]}/{section}/{IMAGES[section]}",
    }


def _find(section: str, download: bool) -> Files:
    """Find the files of a section, or download them."""
    found = SOURCE.find(section, None, download=download)
    if isinstance(found, Files):
        return found
    paths = {
        part: fetch_from_url(SOURCE, URL, path, found, known_hash=SHA256.get(path))
        for part, path in files(section).items()
    }
    return Files("raw", paths)


def read_raw(paths: Mapping[str, Path], section: str) -> tuple[AnnData, float]:
    """Read the table of a section and µm per pixel from the authors' files."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    counts = pd.read_csv(paths["counts"], sep="\t", index_col=0)
    spots = pd.read_csv(paths["spots"], sep="\t")
    mpp = microns_per_pixel(spots, section)

    spots.index = spots["x"].astype(int).astype(str) + "x" + spots["y"].astype(int).astype(str)
    selected = spots[spots["selected"] == 1]
    selected = selected[selected.index.isin(counts.index)]  # a few spots on tissue were not sequenced
    if len(selected) < len(counts):
        lost = len(counts) - len(selected)
        logger.info("%d of %d spots of %s have no position on tissue and are left out.", lost, len(counts), section)
    counts = counts.loc[selected.index]

    obs = selected[["y", "x", "new_x", "new_y"]].rename(columns={"y": "array_row", "x": "array_col"})
    obs = obs.astype({"array_row": int, "array_col": int}).set_axis([f"{section}_{name}" for name in selected.index])
    obs = add_facts(obs, {"patient": section[0], "section": section})
    var = pd.DataFrame(index=[str(gene) for gene in counts])
    adata = AnnData(csr_matrix(counts.to_numpy(dtype="int32")), obs=obs, var=var)
    adata.obsm["spatial"] = selected[["pixel_x", "pixel_y"]].to_numpy(dtype=float)
    return adata, mpp


def microns_per_pixel(spots: pd.DataFrame, section: str) -> float:
    """Fit µm per pixel on pixel and array positions by Theil–Sen; raise if x and y differ by more than 2 %."""
    from scipy.stats import theilslopes

    across, down = (PITCH_UM / theilslopes(spots[f"pixel_{axis}"], spots[f"new_{axis}"]).slope for axis in "xy")
    if not abs(across / down - 1) <= 0.02:
        raise InputError(
            f"The spots of section {section!r} give {across:.4g} µm per pixel along x but {down:.4g} along y. "
            "The spot file belongs to a distorted image; compare it with the authors' repository."
        )
    return float(across)  # as in the prepared sections; the axes differ by about 0.6 %


def read_prepared(paths: Mapping[str, Path], section: str) -> tuple[AnnData, float]:
    """Read the table of a section that was cropped to the tissue, and µm per pixel."""
    from anndata import read_h5ad

    adata = read_h5ad(paths["table"])
    adata.obs = adata.obs.rename(columns={"x": "array_col", "y": "array_row"})
    return adata, float(adata.uns["spatial"][section]["metadata"]["microns_per_pixel"])
