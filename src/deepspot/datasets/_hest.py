from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_mpp, check_positive
from deepspot._spatial.transforms import pitch_px
from deepspot.errors import InputError
from deepspot.io._elements import PITCH_UM, VISIUM_UM, check_centers, spots_in_tissue

from ._published import Files, Source, check_name, fetch_from_hub, with_endings
from ._tables import add_facts, authors_centers, counts_of, mpp_from_spots, read_table, rename_authors, slide_object

if TYPE_CHECKING:
    from spatialdata import SpatialData

REPO = "MahmoodLab/hest"
PUBLISHED, AUTHORS = "published", "authors"
SOURCE = Source(
    name="hest",
    title="HEST-1k",
    page=f"https://huggingface.co/datasets/{REPO}",
    license="CC BY-NC-SA 4.0",
    citation="Jaume et al., HEST-1k, NeurIPS 2024, https://arxiv.org/abs/2406.16192",
    layouts={
        PUBLISHED: {"table": ["st/{}.h5ad"], "meta": ["metadata/{}.json"], "image": ["wsis/{}.tif"]},
        AUTHORS: {
            "table": ["data/h5ad/{}.h5ad", "h5ad/{}.h5ad"],
            "meta": ["data/meta/{}.json", "meta/{}.json"],
            "image": [*with_endings("data/image/{}"), *with_endings("image/{}")],
        },
    },
    files="'st', 'metadata' and 'wsis' (or 'h5ad', 'meta' and 'image') as `folder=`, or as 'hest' in DEEPSPOT_DATA",
)

ST_PITCH_UM, ST_UM = 200.0, 100.0
BINNED = ("xenium", "visium hd")
SQUARE_UM = (8.0, 250.0)
# Relative difference of µm per pixel in the metadata and from the spots.
REFUSE, WARN = 0.1, 0.03
ESTIMATED, EMBEDDED = "pixel_size_um_estimated", "pixel_size_um_embedded"
FACTS = ("organ", "disease_state", "oncotree_code", "species")


@checked
def hest(
    sample: str,
    *,
    folder: str | Path | None = None,
    download: bool = True,
    token: str | None = None,
    mpp: float | None = None,
    diameter_um: float | None = None,
    gene_id_key: str | None = None,
) -> SpatialData:
    """Read one sample of HEST-1k: measured spots and H&E image.

    The sample is searched in `folder`, in ``$DEEPSPOT_DATA/hest`` and in the cache, in the layout of HEST
    (``st/<sample>.h5ad``, ``wsis/<sample>.tif``, ``metadata/<sample>.json``) or of the authors' example (``h5ad/``,
    ``image/`` and ``meta/``, also in ``data/``). Otherwise it is downloaded to the cache; this requires accepting the
    terms on the page of the data set, and an access token.

    µm per pixel are ``pixel_size_um_estimated``, which HEST measured on the spots, and are checked against the pitch of
    the spots. (``pixel_size_um_embedded``, from the image file, is wrong for many samples.) In the authors' layout the
    image is downscaled, and µm per pixel are computed from the spots.

    Xenium and Visium HD are binned into adjacent squares (100 µm for most samples); the diameter of a spot is the side
    of its square. Single-cell samples are refused.

    Parameters
    ----------
    sample
        `id` of the sample, such as ``"TENX152"``.
    folder
        Folder with files in one of the layouts.
    download
        Download the sample (image and counts, up to some GB) if it is not on this machine.
    token
        Access token of Hugging Face. Default: ``HF_TOKEN``, or the stored token of this machine. It is not stored.
    mpp
        µm per pixel of the image, for a sample with contradictory files.
    diameter_um
        Diameter of the tissue that a spot measures. Default: 55 for Visium, the number in the metadata for Spatial
        Transcriptomics.
    gene_id_key
        Column of `var` with identifiers to use as gene names.

    Returns
    -------
    A SpatialData with ``images["<sample>_image"]`` (lazy if it is tiled), the circles ``spots``, the table
    ``table`` and the coordinate systems ``"global"`` and ``"microns"``.

    ``X``
        Raw counts, CSR, int32, of spots in tissue; without control probes.
    ``obs``
        Columns of HEST, and `sample`, `patient`, `organ`, `disease_state`, `oncotree_code`, `species`, `technology` if
        known. Patient numbers of HEST are unique within a study only, so `patient` ends with the study; all samples of
        a study without patients count as one patient.
    ``attrs["deepspot_dataset"]``
        Name, page, license, citation, study and technology.

    Raises
    ------
    KeyError
        If the sample does not exist.
    FileNotFoundError
        If files are missing, and `download` is False.
    PermissionError
        If the terms were not accepted, or there is no token.
    ConnectionError
        If the sample cannot be downloaded.
    ValueError
        If `sample` is not a name, a file is damaged, there are no counts, the scale is unknown or contradicts the
        spots, spots are outside the image, or the sample holds single cells.

    Notes
    -----
    Licensed CC BY-NC-SA 4.0; each study also has its own license. Jaume et al., HEST-1k, NeurIPS 2024,
    https://arxiv.org/abs/2406.16192. The download has not been tested.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.hest("TENX152")  # doctest: +SKIP
    """
    check_name(sample)
    if mpp is not None:
        check_mpp(mpp, "`mpp`")
    if diameter_um is not None:
        check_positive(diameter_um, "diameter_um")
    files = _find(sample, folder, download, token)
    path, meta_name = files.paths["table"], files.paths["meta"].name
    meta = _read_metadata(files.paths["meta"])
    adata = read_table(path)
    if "cell_diameter" in meta and "spot_diameter_fullres" not in meta:
        raise InputError(
            f"{sample} holds single cells ({meta_name} has 'cell_diameter'): this package predicts spots. Bin the "
            "cells into spots, and read these with `ds.io.from_anndata`."
        )
    adata = spots_in_tissue(adata, sample)
    # In the authors' layout the image is downscaled, and the scale in the metadata does not apply.
    downscaled = files.layout == AUTHORS and {"x_pixel", "y_pixel"} <= set(adata.obs.columns)
    if downscaled:
        centers = authors_centers(adata.obs, path.name)
    elif "spatial" in adata.obsm:
        centers = check_centers(adata.obsm["spatial"], adata.obs_names, f"obsm['spatial'] of {path.name}")
    else:
        raise InputError(f"{path} has no obsm['spatial'], the positions of the spots. Download it again.")
    table = counts_of(adata, path, gene_id_key)
    table.obs = rename_authors(table.obs)

    technology = str(meta.get("st_technology") or "unknown").strip()
    pitch_um, drawn_um = _nominal(meta, technology.lower())
    if pitch_um is not None and drawn_um is not None and drawn_um >= pitch_um:
        if mpp is None or diameter_um is None:
            raise InputError(
                f"{meta_name} states spots of {drawn_um:g} µm that are {pitch_um:g} µm apart, which would overlap. "
                "Look both up in the study, and pass `diameter_um=` and `mpp=`."
            )
        pitch_um = None
    fitted = None if pitch_um is None or len(centers) < 2 else mpp_from_spots(centers, table.obs, pitch_um)
    mpp = _mpp(fitted, mpp, meta, meta_name, downscaled=downscaled)
    if technology.lower() in BINNED and len(centers) > 1:
        drawn_um = _square_um(pitch_px(centers) * mpp, technology, meta_name)
    diameter_um = diameter_um or drawn_um
    if diameter_um is None:
        raise InputError(
            f"The size of a spot is unknown: {meta_name} has no known technology ({technology!r}) and no "
            "'spot_diameter'. Pass `diameter_um=`."
        )
    study = _known(meta, "dataset_title")
    facts = {"sample": sample, "technology": technology, "patient": _patient(meta, sample, study)}
    table.obs = add_facts(table.obs, facts | {key: _known(meta, key) for key in FACTS})
    attrs = SOURCE.attrs(sample, study=study, technology=technology)
    return slide_object(attrs, files.paths["image"], table, centers, mpp=mpp, diameter_um=diameter_um)


def _find(sample: str, folder: str | Path | None, download: bool, token: str | None) -> Files:
    """Find the files of a sample, or download them, the image last because it is the largest."""
    found = SOURCE.find(sample, folder, download=download)
    if isinstance(found, Files):
        return found
    paths = {
        part: fetch_from_hub(SOURCE, REPO, pattern.format(sample), token, found, "HEST_v*.csv")
        for part, (pattern,) in SOURCE.layouts[PUBLISHED].items()
    }
    return Files(PUBLISHED, paths)


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged or not JSON ({error}). Download it again.") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path} is not a record of a sample, but a {type(meta).__name__}. Download it again.")
    return meta


def _known(meta: dict[str, Any], key: str) -> Any:
    """Return an entry of the metadata; None if it is missing, which HEST writes as NaN."""
    value = meta.get(key)
    missing = value == "" or (isinstance(value, float) and not np.isfinite(value))
    return None if missing else value


def _number(meta: dict[str, Any], key: str) -> float | None:
    """Return an entry of the metadata if it is a number above 0 and below 1e9, else None."""
    try:
        value = float(str(meta.get(key)).replace(",", "."))  # some numbers are text
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None


def _patient(meta: dict[str, Any], sample: str, study: str | None) -> str | None:
    """Return the name of the patient, made unique by the study."""
    patient = _known(meta, "patient")
    if study is None:
        return patient
    if patient is None:
        logger.warning(
            "HEST-1k has no patient for %s: all samples of its study without a patient count as one patient.",
            sample,
        )
    return f"{'unknown' if patient is None else patient} of {study}"


def _nominal(meta: dict[str, Any], kind: str) -> tuple[float | None, float | None]:
    """Return pitch and diameter of spots in µm by technology or metadata; None if unknown."""
    if kind == "visium":
        return PITCH_UM, VISIUM_UM
    pitch_um, drawn_um = _number(meta, "inter_spot_dist"), _number(meta, "spot_diameter")
    if kind in ("spatial transcriptomics", "st"):
        return pitch_um or ST_PITCH_UM, drawn_um or ST_UM
    # In binned samples the metadata describe the instrument, not the squares in the table.
    return None, None if kind in BINNED else drawn_um


def _mpp(fitted: float | None, mpp: float | None, meta: dict[str, Any], file: str, *, downscaled: bool) -> float:
    """Return µm per pixel: the argument, else the metadata, checked against the fit on the spots."""
    if mpp is not None:
        if fitted is not None and abs(mpp / fitted - 1) > WARN:
            logger.warning("The spots give %.4g µm per pixel; `mpp=%.4g` is used instead.", fitted, mpp)
        return mpp
    if downscaled:
        if fitted is None:
            raise InputError(
                f"The scale is unknown: {file} describes the image before downscaling, and the pitch of this "
                "technology is unknown. Pass `mpp=`: µm per pixel of the downscaled image."
            )
        return fitted
    stated = _number(meta, ESTIMATED)
    if stated is None:
        raise InputError(
            f"The scale is unknown: {file} has no {ESTIMATED!r}, which HEST measured on the spots "
            f"({EMBEDDED!r}, from the image file, is wrong for many samples). Pass `mpp=`"
            + ("." if fitted is None else f"; the distance between the spots gives {fitted:.4g}.")
        )
    difference = 0.0 if fitted is None else abs(stated / fitted - 1)
    if difference > REFUSE:
        raise InputError(
            f"The scale is contradictory: {file} states {stated:.4g} µm per pixel, the distance between the spots "
            f"gives {fitted:.4g}. Check that metadata, table and image belong together, and pass `mpp=`."
        )
    if difference > WARN:
        message = "%s states %.4g µm per pixel, the distance between the spots gives %.4g; the first is used."
        logger.warning(message, file, stated, fitted)
    return stated


def _square_um(side_um: float, technology: str, file: str) -> float:
    """Return the side of the squares of a binned sample if it is plausible."""
    low, high = SQUARE_UM
    if not low <= side_um <= high:
        raise InputError(
            f"The squares of {technology} in this sample would be {side_um:.4g} µm wide (HEST has 100 for most). "
            f"The scale in {file} does not match these spots: pass `mpp=`."
        )
    logger.info("%s is binned in squares of %.0f µm, which is used as the diameter of the spots.", technology, side_um)
    return side_um
