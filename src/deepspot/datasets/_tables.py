"""Checked reading of published tables of spots: counts, genes, positions and scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from deepspot._core.keys import ARRAY, key_in
from deepspot._core.logging import logger
from deepspot._core.validate import check_mpp
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import pitch_px
from deepspot.errors import InputError
from deepspot.io import _elements, slide
from deepspot.io._elements import reading

from ._published import DATASET

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

CONTROLS = (
    r"BLANK|Blank-|NegControl|NegPrb|antisense_|(?:Unassigned|Deprecated)Codeword|Intergenic_|__ambiguous|__no_feature"
)
"""Prefixes of rows that are not genes: controls of Xenium, and ambiguous reads."""

ENSEMBL = r"ENS[A-Z]*G\d{11}"
AUTHORS = {
    "x_array": "array_row",
    "y_array": "array_col",
    "x_pixel": "pxl_row_in_fullres",
    "y_pixel": "pxl_col_in_fullres",
}
"""Columns of DeepSpot's authors, whose x is the row, and their names in Visium data."""

# Allowed size in memory: in bytes for any table, and as a multiple of the file size (typical are 5 to 20).
SMALL, PACKED = 10**9, 200
FEW = 0.05


def read_table(path: Path, *, backed: bool = False) -> AnnData:
    """Read an .h5ad, with `backed` without `X`.

    Files with links to other files are refused, and files that unpack to far more than their size (zip bombs).
    """
    import h5py
    from anndata import read_h5ad

    total, foreign = 0, []

    def visit(name: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            total += item.size * item.dtype.itemsize if item.size else 0
            if item.external or item.is_virtual:
                foreign.append(name)

    def visit_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            foreign.append(name)

    with reading(path), h5py.File(path) as file:
        file.visititems(visit)
        file.visititems_links(visit_link)
    if foreign:
        raise InputError(f"{path} links {foreign[0]!r} to another file, which is not read. Download it again.")
    if total > max(SMALL, PACKED * path.stat().st_size):
        raise InputError(f"{path} unpacks to {total / 1e9:,.1f} GB, which could exhaust the memory. Download it again.")
    with reading(path):
        return read_h5ad(path, backed="r" if backed else None)


def counts_of(adata: AnnData, path: Path, gene_id_key: str | None = None) -> AnnData:
    """Return a table of raw counts (CSR, int32) of genes with unique names, with `obs` and `var`."""
    from anndata import AnnData

    counts = next((X for X in (adata.X, adata.layers.get("counts")) if X is not None and _are_counts(X)), None)
    if counts is None:
        raise InputError(
            f"{path} holds no raw counts, neither in X nor in layers['counts'] (values are negative, fractional or not "
            "finite); it may be normalized. Get the counts, or read it unchanged with `anndata.read_h5ad` and "
            "`ds.io.from_anndata`."
        )
    if counts.shape[1] == 0 or counts.max() > np.iinfo(np.int32).max:
        raise InputError(f"{path} holds no genes, or counts above {np.iinfo(np.int32).max:,}. Download it again.")
    with reading(path):
        table = AnnData(csr_matrix(counts, dtype=np.int32), obs=adata.obs.copy(), var=adata.var.copy())
    controls = table.var_names.str.match(CONTROLS)
    if controls.any():
        examples = ", ".join(table.var_names[controls][:3])
        message = "%d of %d rows of %s are not genes (%s) and are left out."
        logger.info(message, controls.sum(), len(controls), path.name, examples)
        table = table[:, ~controls].copy()
    _elements.name_genes(table, gene_id_key)
    if table.var_names.str.fullmatch(ENSEMBL).mean() > 0.5:
        message = (
            "Genes of %s are named by Ensembl identifiers, which do not match models trained on symbols. Pass the "
            "column of symbols as `gene_id_key=`; columns of var are %s."
        )
        logger.warning(message, path.name, list(table.var))
    return table


def _are_counts(X: Any) -> bool:
    values = X.data if issparse(X) else np.asarray(X)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values == np.round(values)).all())


def authors_centers(obs: pd.DataFrame, where: str) -> np.ndarray:
    """Return centers (n, 2), x and y in pixels, of a table of DeepSpot's authors, whose `x_pixel` is the row."""
    for column in ("x_pixel", "y_pixel"):
        key_in(column, obs.columns, f"obs of {where}")
    centers = obs[["y_pixel", "x_pixel"]].to_numpy()  # without the names, which do not say what is x
    return _elements.check_centers(centers, obs.index, f"obs of {where}")


def rename_authors(obs: pd.DataFrame) -> pd.DataFrame:
    """Rename the columns of DeepSpot's authors to those of Visium data."""
    return obs.rename(columns={old: new for old, new in AUTHORS.items() if new not in obs.columns})


def add_facts(obs: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Add facts about the sample to `obs` as categorical columns, without those that are None."""
    known = {key: value for key, value in facts.items() if value is not None}
    obs = obs.assign(**{key: pd.Categorical([str(value)] * len(obs)) for key, value in known.items()})
    # First, because of two names that differ by case, such as "Organ" and "organ", the second is renamed.
    return obs.iloc[:, np.argsort([column not in known for column in obs], kind="stable")]


def mpp_from_spots(centers: np.ndarray, obs: pd.DataFrame, pitch_um: float) -> float:
    """Compute µm per pixel from centers (n, 2) with a pitch, for Visium from the array positions in `obs`."""
    if pitch_um == _elements.PITCH_UM and set(ARRAY) <= set(obs.columns):
        array = obs[list(ARRAY)].apply(pd.to_numeric, errors="coerce")
        if np.isfinite(array.to_numpy(dtype=float)).all():
            return _elements.visium_mpp(centers, array)
    return pitch_um / pitch_px(centers)


def slide_object(
    attrs: dict[str, Any], image: Path, table: AnnData, centers: np.ndarray, *, mpp: float, diameter_um: float
) -> SpatialData:
    """Return a SpatialData of an image and the spots (table and centers, n × 2) inside it."""
    check_mpp(mpp, f"The scale of {attrs['sample']}")
    sample = attrs["sample"]
    if _is_tiled(image):  # is read lazily
        sdata = slide(image, mpp=mpp, name=sample)
    else:
        sdata = _elements.image_object(_elements.load_image(image), sample)
    key = next(iter(sdata.images))
    height, width = size = level_sizes(pyramid_levels(sdata, key))[0]
    kept = np.all((centers >= 0) & (centers <= (width, height)), axis=1)
    if (~kept).sum() > FEW * len(kept):
        check_inside(centers, size, f"image {key!r}")
    if not kept.all():
        logger.warning("%d of %d spots of %s are outside its image and are left out.", (~kept).sum(), len(kept), sample)
    table.obsm["spatial"] = centers
    table = table[kept].copy()
    _elements.add_spots(sdata, table, centers[kept], mpp=mpp, diameter_um=diameter_um)
    sdata.attrs[DATASET] = attrs
    what, diameter = _elements.size_of(table), round(diameter_um, 1)
    logger.info("Read %s of %s: %s, %.4g µm per pixel, spots of %g µm.", sample, attrs["name"], what, mpp, diameter)
    return sdata


def _is_tiled(path: Path) -> bool:
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        return bool(file.pages.first.is_tiled)
