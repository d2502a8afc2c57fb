from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot.datasets._shared.array_scale import authors_centers, finite, is_authors, renamed
from deepspot.datasets._shared.counts import counted
from deepspot.datasets._shared.h5ad import read_table
from deepspot.datasets._shared.published import DATASET, Files
from deepspot.datasets._shared.spots_on_image import add_spots, inside, open_image

from .files import AUTHORS, SOURCE
from .scale import Spots, measure

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

FACTS = ("organ", "disease_state", "oncotree_code", "species")


def read(
    files: Files, sample: str, *, mpp: float | None, spot_diameter_um: float | None, gene_id_key: str | None
) -> SpatialData:
    """Read a sample of HEST-1k from its files."""
    meta = read_meta(files.paths["meta"])
    path = files.paths["table"]
    adata = read_table(path)
    if "cell_diameter" in meta and "spot_diameter_fullres" not in meta:
        raise ValueError(
            f"{sample} holds single cells ({files.paths['meta'].name} has 'cell_diameter'): this package predicts "
            "spots. Pool the cells into spots, and read these with `ds.io.from_anndata`."
        )
    adata = in_tissue(adata, sample)
    authors = files.layout == AUTHORS and is_authors(adata.obs)
    if not authors and "spatial" not in adata.obsm:
        raise ValueError(f"{path} has no obsm['spatial'], so nobody knows where its spots lie. Get it again.")
    centers = (
        authors_centers(adata.obs, path.name)
        if authors
        else finite(np.asarray(adata.obsm["spatial"], float), path.name)
    )
    adata.obs = renamed(adata.obs)
    table = counted(adata, path, gene_id_key)
    spots = measure(
        Spots(centers, adata.obs, meta, files.paths["meta"].name, shrunk=authors), mpp=mpp, diameter_um=spot_diameter_um
    )

    sdata = open_image(files.paths["image"], sample, spots.mpp)
    kept = inside(sdata, centers, sample)
    table.obs = facts(table.obs, meta, sample, spots.technology)
    add_spots(sdata, table[kept].copy(), centers[kept], mpp=spots.mpp, diameter_um=spots.diameter_um)
    study = known(meta.get("dataset_title"))
    sdata.attrs[DATASET] = SOURCE.said_of(sample, study=study, technology=spots.technology)
    logger.info(
        "Read %s of %s: %s spots × %s genes, %s, %.4g µm per pixel, spots of %g µm.", sample, SOURCE.title,
        f"{kept.sum():,}", f"{table.n_vars:,}", spots.technology, spots.mpp, round(spots.diameter_um, 1),
    )  # fmt: skip
    return sdata


def read_meta(path: Path) -> dict[str, Any]:
    """Read the metadata of a sample."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no JSON ({error}). Get it again.") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path} is no record of a sample, but a {type(meta).__name__}. Get it again.")
    return meta


def known(value: Any) -> Any:
    """Return a value of the metadata, or None if it is missing: HEST writes NaN."""
    missing = value is None or value == "" or (isinstance(value, float) and not np.isfinite(value))
    return None if missing else value


def in_tissue(adata: AnnData, sample: str) -> AnnData:
    """Spots in tissue, where the table tells them from others."""
    if "in_tissue" not in adata.obs:
        return adata
    there = pd.to_numeric(adata.obs["in_tissue"], errors="coerce").fillna(1).to_numpy(dtype=float) > 0
    if there.all() or not there.any():
        return adata
    logger.info("%d of %d spots of %s are not in tissue and are left out.", (~there).sum(), len(there), sample)
    return adata[there].copy()


def facts(obs: pd.DataFrame, meta: dict[str, Any], sample: str, technology: str) -> pd.DataFrame:
    """`obs` with what is known of the whole sample."""
    said = {"sample": sample, "technology": technology, "patient": patient_of(meta, sample)}
    said |= {key: known(meta.get(key)) for key in FACTS}
    fields = {key: pd.Categorical([str(value)] * len(obs)) for key, value in said.items() if value is not None}
    return obs.assign(**fields)


def patient_of(meta: dict[str, Any], sample: str) -> str | None:
    """Name of the patient, not to be confused with one of another study."""
    patient, study = known(meta.get("patient")), known(meta.get("dataset_title"))
    if patient is None and study is not None:
        logger.warning(
            "HEST-1k does not say whose %s is: all samples of its study that are not told apart count as one patient.",
            sample,
        )
        patient = "unknown"
    return patient if study is None or patient is None else f"{patient} of {study}"
