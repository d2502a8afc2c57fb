from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.hashing import digest
from deepspot._core.keys import PREDICTION, SCALE, SLIDE, UNS, prediction_name, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_genes, check_positive
from deepspot._sdata.zarr_store import check_fits_in_memory
from deepspot._stats.log_scale import LARGEST, check_log_scale
from deepspot.errors import InputError, MissingKeyError
from deepspot.io._elements import add_spots, image_object, size_of

from ._published import DATASET, NAME, Files, Source, check_name, fetch_from_hub, unpack
from ._tables import add_facts, authors_centers, read_table, reading, rename_authors

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

REPO = "nonchev/TCGA_digital_spatial_transcriptomics"
INDEX = "metadata_2025-05-21.csv"
ENDINGS = (".h5ad.gz", ".h5ad")
SOURCE = Source(
    name="tcga",
    title="the authors' TCGA predictions",
    page=f"https://huggingface.co/datasets/{REPO}",
    license="terms on its page",
    citation="Nonchev et al., DeepSpot, medRxiv (2025), https://doi.org/10.1101/2025.02.09.25321567",
    layouts={
        "published": {"table": [f"TCGA_*/*/{{}}{ending}" for ending in ENDINGS]},
        "flat": {"table": [f"{{}}{ending}" for ending in ENDINGS]},
    },
    files="'<sample>.h5ad.gz', by itself or in '<cohort>/<FFPE or FF>', as `folder=`, or as 'tcga' in DEEPSPOT_DATA",
)

BARCODE = re.compile(r"(TCGA-\w{2}-\w{4})(?:-\w+)*?-(DX|TS|BS|MS)")
SLIDE_TYPES = {"DX": "FFPE", "TS": "FF", "BS": "FF", "MS": "FF"}
# The authors downscale the thumbnail by 10 at 40x and by 5 at 20x.
MAGNIFICATION = {10: ("40x", 0.25), 5: ("20x", 0.5)}
FAR = 1.2
BULK = "bulk_"
STANDARDIZED = 0.4
# Median sum of `expm1` over the genes of a spot. Predicted counts per 10,000 sum to at most 10,000, up to the error of
# the prediction; those per million of most genes are in this range.
PER_10K, PER_MILLION = 15_000, (200_000, 1_100_000)
# Section 4.3.1 of the paper. For other cohorts, it is not published which model was used.
TRAINED_ON = {"TCGA_SKCM": "melanoma", "TCGA_KIRC": "kidney cancer"}
ROWS = 1000


def tcga(
    sample: str,
    *,
    mpp: float | None = None,
    genes: str | Sequence[str] | None = None,
    folder: str | Path | None = None,
    download: bool = True,
    token: str | None = None,
    diameter_um: float | None = None,
    max_gb: float = 50.0,
) -> SpatialData:
    """Read one TCGA slide that was predicted by the authors of the paper, as a prediction.

    The slide is searched in `folder`, in ``$DEEPSPOT_DATA/tcga`` and in the cache, as ``<sample>.h5ad.gz`` or
    ``<sample>.h5ad``, directly or in ``<cohort>/<FFPE or FF>/``. Otherwise it is downloaded to the cache; this requires
    accepting the terms on the page of the data set, and an access token.

    Circles have the positions and the size of the authors' tiles. The authors chose tiles in pixels, so their size in
    µm differs from that of the training (30 instead of 55 µm for kidney).

    Parameters
    ----------
    sample
        Name of the slide, such as ``"TCGA-BF-AAP6-01Z-00-DX1.EFF1D6E1-…"``: `sample_id` in the index of the data set.
    mpp
        µm per pixel of the slide, from its header (``aperio.MPP``). Required if the file does not state it.
    genes
        Genes to load. Default: all.
    folder
        Folder with files.
    download
        Download the slide (some GB) if it is not on this machine.
    token
        Access token of Hugging Face. Default: ``HF_TOKEN``, or the stored token of this machine. It is not stored.
    diameter_um
        Diameter of the circles. Default: the side of the authors' tiles, computed from their numbering.
    max_gb
        Largest size of an unpacked file. It is unpacked to the cache, read, and deleted.

    Returns
    -------
    A SpatialData with the circles ``spots``, the table ``deepspot_spots``, the coordinate systems ``"global"`` (pixels
    of the slide) and ``"microns"``, and ``images["<sample>_thumbnail_image"]``, a thumbnail that is too coarse for
    tiles.

    ``X``
        Expression, float32, log1p of counts per 10,000, negative values set to 0 as in the paper. Counts per million
        are converted.
    ``obs``
        Columns of the authors, with `x_array`, `y_array`, `x_pixel` and `y_pixel` (x is the row) renamed to
        `array_row`, `array_col`, `pxl_row_in_fullres` and `pxl_col_in_fullres`; `sample`, `patient` (the first twelve
        characters of the barcode), `cohort` and `slide_type`.
    ``varm["bulk"]``
        Measured bulk RNA of the sample, if the file has it.
    ``uns["deepspot"]``
        `kind` (``"prediction"``), `scale`, `model` (``"the authors' DeepSpot, trained on melanoma"`` or kidney
        cancer, or the cohort if the paper does not state the training), `license`, and `fingerprint` of the genes (the
        weights are not in the file).
    ``attrs["deepspot_dataset"]``
        Name, page, license and citation.

    Raises
    ------
    KeyError
        If the slide or a gene does not exist.
    FileNotFoundError
        If the slide is not on this machine, and `download` is False.
    PermissionError
        If the terms were not accepted, or there is no token.
    ConnectionError
        If the slide cannot be downloaded.
    ValueError
        If the scale is unknown, a file is damaged, incomplete or unpacks to more than `max_gb`, or its values are
        counts, not finite or on another scale.

    Notes
    -----
    Terms are on https://huggingface.co/datasets/nonchev/TCGA_digital_spatial_transcriptomics: no sharing, harmful use
    excluded. Nonchev et al., DeepSpot (2025), https://doi.org/10.1101/2025.02.09.25321567. The content of the files was
    taken from the authors' pipeline. This function has not been tested on one of them.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.tcga("TCGA-D9-A3Z3-06Z-00-DX1.C4820632", mpp=0.25)  # doctest: +SKIP
    >>> profile = ds.cohort.pseudobulk(sdata)  # doctest: +SKIP
    """
    check_name(sample)
    for argument, value in {"mpp": mpp, "diameter_um": diameter_um, "max_gb": max_gb}.items():
        if value is not None:
            check_positive(value, argument)
    path, cohort = _find(sample, folder, download, token)
    if path.suffix != ".gz":
        return _read(path, sample, cohort, mpp, genes, diameter_um)
    SOURCE.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=SOURCE.cache) as unpacked:
        plain = unpack(path, Path(unpacked) / path.stem, max_gb)
        return _read(plain, sample, cohort, mpp, genes, diameter_um)


def _find(sample: str, folder: str | Path | None, download: bool, token: str | None) -> tuple[Path, str | None]:
    """Find the file of a slide, or download it; return its path and the cohort, if known from the folder."""
    found = SOURCE.find(sample, folder, download=download)
    if isinstance(found, Files):
        path = found.paths["table"]
        return path, path.parent.parent.name if found.layout == "published" else None
    index = fetch_from_hub(SOURCE, REPO, INDEX, token, found, INDEX)
    with reading(index, "CSV"):
        table = pd.read_csv(index, dtype=str)
    lacking = [column for column in ("sample_id", "file_path") if column not in table.columns]
    if lacking:
        raise InputError(
            f"{index} has no column {lacking}, only {list(table.columns)}. Delete it and download it again."
        )
    rows = table[table["sample_id"].fillna("") == sample]
    if rows.empty:
        near = get_close_matches(sample, table["sample_id"].dropna(), n=5, cutoff=0.5)
        raise MissingKeyError(
            f"Sample `{sample!r}` not found among the {len(table):,} of {SOURCE.title}. Similar names: {near}. Local "
            f"samples: {found.local}."
        )
    inside = str(rows["file_path"].iloc[0])
    parts = inside.split("/")
    if not all(NAME.fullmatch(part) for part in parts) or not inside.endswith(ENDINGS):
        raise InputError(
            f"{index} lists {inside!r}, which is not the path of a prediction. Delete it and download it again."
        )
    return fetch_from_hub(SOURCE, REPO, inside, token, found, INDEX), parts[0]


def _read(
    path: Path,
    sample: str,
    cohort: str | None,
    mpp: float | None,
    genes: str | Sequence[str] | None,
    diameter_um: float | None,
) -> SpatialData:
    """Read the file of a slide."""
    from anndata import AnnData
    from spatialdata import SpatialData, sanitize_table

    stored = read_table(path, backed=True)
    names = [str(name) for name in stored.var_names]
    with closing(stored.file):
        if not stored.var_names.is_unique:
            raise InputError(f"Gene names of {path.name} are not unique. Download it again.")
        columns = pd.Index(names).get_indexer(names if genes is None else check_genes(genes, names, path.name))
        check_fits_in_memory((stored.n_obs, len(columns)), "Choose fewer genes with `genes=`")
        X, negative = _read_expression(stored, columns, path)
    if negative > STANDARDIZED:
        message = (
            "%.0f %% of the values of %s are negative and were set to 0: they may be standardized, not expression."
        )
        logger.warning(message, 100 * negative, sample)

    centers = authors_centers(stored.obs, path.name)
    image, stated = _library(stored.uns)
    downscaled = _downscaled(stored.obsm.get("spatial"), centers)
    scale = _scale(stated, downscaled, sample, mpp)
    tile_px = _tile_px(stored.obs)
    diameter_um = diameter_um or (tile_px and tile_px * scale)
    if diameter_um is None:
        raise InputError(
            f"The size of a spot is unknown: the positions in {path.name} do not follow the authors' grid. Pass "
            "`diameter_um=`: the side of the tiles."
        )

    facts = {"sample": sample, "cohort": cohort}
    if barcode := BARCODE.match(sample):
        facts |= {"patient": barcode[1], "slide_type": SLIDE_TYPES[barcode[2]]}
    var = stored.var.iloc[columns]
    bulk = [column for column in var.columns if str(column).startswith(BULK)]
    table = AnnData(X, obs=add_facts(rename_authors(stored.obs), facts), var=var.drop(columns=bulk))
    sanitize_table(table)  # names of columns contain spaces
    if bulk:
        # Not in var, which profiles of several slides take from the first slide.
        table.varm["bulk"] = var[bulk].astype(float)
    table.obsm["spatial"] = centers
    provenance = {
        "kind": PREDICTION,
        "scale": SCALE,
        "model": f"the authors' DeepSpot, {_training(cohort)}",
        # Slides predicted by the same model have the same genes in the same order.
        "fingerprint": digest(names),
        "license": f"{SOURCE.license}: {SOURCE.page}",
        "resolution": "spot",
        "expected_r_from": "not measured",
    }
    table.uns = {"log1p": {}, UNS: provenance}
    sdata = SpatialData()
    if image is not None and downscaled is not None:
        sdata = image_object(image, f"{valid_name(sample)}_thumbnail", downscaled=downscaled)
    add_spots(sdata, table, centers, mpp=scale, diameter_um=diameter_um, table_key=prediction_name("spots"))
    sdata.attrs[SLIDE] = {"name": sample, "mpp": scale, "mpp_from": "file" if mpp is None else "argument"}
    sdata.attrs[DATASET] = SOURCE.attrs(sample, cohort=cohort)
    message = "Read %s: %s predicted by the authors, %.4g µm per pixel, tiles of %.0f µm."
    logger.info(message, sample, size_of(table), scale, diameter_um)
    return sdata


def _training(cohort: str | None) -> str:
    """Return on what the model of a cohort was trained, as far as it is known."""
    if cohort in TRAINED_ON:
        return f"trained on {TRAINED_ON[cohort]}"
    return f"model of {cohort}" if cohort else "cohort unknown"


def _read_expression(stored: AnnData, columns: np.ndarray, path: Path) -> tuple[np.ndarray, float]:
    """Return log1p of counts per 10,000 (n, genes) in float32, at least 0, and the share of negative values.

    The file is read in blocks. Its first spots show on which scale it is, by the sum over all genes.
    """
    with reading(path):
        values = stored.X.to_memory().tocsr() if hasattr(stored.X, "to_memory") else stored.X
    X = np.empty((stored.n_obs, len(columns)), dtype=np.float32)
    negative, total = 0, 0.0
    for start in range(0, len(X), ROWS):
        with reading(path):
            rows = values[start : start + ROWS]
            whole = rows if isinstance(rows, np.ndarray) else rows.toarray()
        block = whole[:, columns].astype(np.float64)
        if start == 0:
            total = float(np.median(np.expm1(np.clip(whole, 0, LARGEST, dtype=np.float64)).sum(axis=1)))
        if not np.isfinite(block).all():
            raise InputError(f"X of {path.name} has values that are not finite. Download it again.")
        negative += int((block < 0).sum())
        X[start : start + ROWS] = np.maximum(block, 0)
    check_log_scale(X[:ROWS], f"X of {path.name}", marked=True)
    if PER_MILLION[0] <= total <= PER_MILLION[1]:
        logger.info("X of %s is log1p of counts per million and was converted to counts per 10,000.", path.name)
        np.log1p(np.expm1(X, out=X) / 100, out=X)
    elif total > PER_10K:
        raise InputError(
            f"X of {path.name} is on an unknown scale: `expm1` sums to {total:,.0f} counts per spot (median), where "
            "the authors' predictions have at most 10,000. Write log1p of counts per 10,000 to the file, or download "
            "it again."
        )
    return X, negative / max(X.size, 1)


def _library(uns: Mapping[str, Any]) -> tuple[np.ndarray | None, list[float]]:
    """Return the thumbnail in RGB, if any, and the stated µm per pixel."""
    library: Mapping[str, Any] = next(iter(uns.get("spatial", {}).values()), {})
    stated = [library.get(part, {}).get("microns_per_pixel", 0) for part in ("metadata", "scalefactors")]
    image = library.get("images", {}).get("hires")
    fits = image is not None and image.ndim == 3 and image.shape[2] in (3, 4) and image.dtype == np.uint8
    return image[..., :3] if fits else None, [float(value) for value in stated if 0 < value < np.inf]


def _downscaled(spatial: np.ndarray | None, centers: np.ndarray) -> float | None:
    """Return the downscaling factor of the thumbnail, from both sets of coordinates (n, 2), or None."""
    if spatial is None or spatial.shape != centers.shape or not len(centers):
        return None
    factor = float(np.linalg.norm(centers)) / (float(np.linalg.norm(spatial)) or 1.0)
    if not np.allclose(spatial * factor, centers, atol=max(1.0, factor)):
        logger.warning("The thumbnail does not match the positions of the spots and is left out.")
        return None
    return factor


def _scale(stated: list[float], downscaled: float | None, sample: str, mpp: float | None) -> float:
    """Return µm per pixel of the slide: the argument, else the number in the file."""
    likely = MAGNIFICATION.get(round(downscaled)) if downscaled is not None else None
    if mpp is not None:
        if likely is not None and not 1 / FAR <= mpp / likely[1] <= FAR:
            message = "%s seems to be of %s, with about %g µm per pixel; `mpp=%g` is used instead."
            logger.warning(message, sample, *likely, mpp)
        return float(mpp)
    if stated:
        return stated[0]
    hint = "" if likely is None else f" The thumbnail is downscaled as at {likely[0]}: about {likely[1]:g}."
    raise InputError(
        f"The scale of {sample} is unknown: the file does not state it. Pass `mpp=`: µm per pixel of the slide, "
        f"'aperio.MPP' in the header of its .svs.{hint} (Profiles do not depend on it; maps and distances do.)"
    )


def _tile_px(obs: pd.DataFrame) -> float | None:
    """Return the side of the authors' tiles in pixels: the first tile is one side and one pixel from the edge."""
    if not {"x_array", "y_array"} <= set(obs.columns):
        return None
    sides = []
    for axis in "xy":
        number, pixel = (obs[f"{axis}_{what}"].to_numpy(dtype=float) for what in ("array", "pixel"))
        if np.ptp(number) == 0:
            continue
        step, start = np.polyfit(number, pixel, 1)
        if np.abs(start + step * number - pixel).max() > 0.5:
            return None
        sides.append(round(start) - 1)
    return float(sides[0]) if sides and min(sides) == max(sides) > 0 else None
