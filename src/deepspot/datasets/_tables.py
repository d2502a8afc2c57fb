"""Tables of spots that others published are read with care: counts, genes, places, and the scale that they give."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from deepspot._core.keys import ARRAY, key_in
from deepspot._core.logging import logger
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import pitch_px
from deepspot.errors import InputError
from deepspot.io import _elements, slide

from ._published import DATASET

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

CONTROLS = (
    r"BLANK|Blank-|NegControl|NegPrb|antisense_|(?:Unassigned|Deprecated)Codeword|Intergenic_|__ambiguous|__no_feature"
)
"""How names begin that stand for no gene: controls of Xenium, and reads that were counted for several genes."""

ENSEMBL = r"ENS[A-Z]*G\d{11}"
AUTHORS = {
    "x_array": "array_row",
    "y_array": "array_col",
    "x_pixel": "pxl_row_in_fullres",
    "y_pixel": "pxl_col_in_fullres",
}
"""Columns of DeepSpot's authors, whose x runs down the image, and what they are called elsewhere."""

# Bytes that any table may unpack to, and times its size on disk: counts of spots are packed five to twenty times.
SMALL, PACKED = 10**9, 200
FEW = 0.05


@contextmanager
def reading(path: Path, kind: str = ".h5ad") -> Iterator[None]:
    """Turn the errors of libraries into one that names the file, and leave repeated gene names to `name_genes`."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")
            yield
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # damaged files raise anything
        problem = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is damaged, cut off or no {kind} ({problem}). Get it again.") from error


def read_table(path: Path, *, backed: bool = False) -> AnnData:
    """Read a table; with `backed`, `X` stays in the file.

    A file is refused if it refers to other files, or holds far more than its size lets expect: zeros pack to nothing.
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
        raise InputError(f"{path} takes {foreign[0]!r} from another file, which is not read. Get it again.")
    if total > max(SMALL, PACKED * path.stat().st_size):
        raise InputError(f"{path} unpacks to {total / 1e9:,.1f} GB, so it may be made to fill the memory.")
    with reading(path):
        return read_h5ad(path, backed="r" if backed else None)


def counts_of(adata: AnnData, path: Path, gene_id_key: str | None = None) -> AnnData:
    """Counts (CSR, int32) of the genes of a table, with its `obs` and `var`, and gene names that are unique."""
    from anndata import AnnData

    counts = next((X for X in (adata.X, adata.layers.get("counts")) if X is not None and _are_counts(X)), None)
    if counts is None:
        raise InputError(
            f"{path} holds no raw counts, neither in X nor in layers['counts'] (there are negative or broken numbers): "
            "it seems to be normalized already. Get the counts, or read it as it is with `anndata.read_h5ad` and "
            "`ds.io.from_anndata`."
        )
    if counts.shape[1] == 0 or counts.max() > np.iinfo(np.int32).max:
        raise InputError(f"{path} holds no genes, or counts that no sequencer gives. Get a new copy.")
    with reading(path):
        table = AnnData(csr_matrix(counts, dtype=np.int32), obs=adata.obs.copy(), var=adata.var.copy())
    controls = table.var_names.str.match(CONTROLS)
    if controls.any():
        examples = ", ".join(table.var_names[controls][:3])
        message = "%d of %d rows of %s stand for no gene (%s) and are left out."
        logger.info(message, controls.sum(), len(controls), path.name, examples)
        table = table[:, ~controls].copy()
    _elements.name_genes(table, gene_id_key)
    if table.var_names.str.fullmatch(ENSEMBL).mean() > 0.5:
        message = (
            "Genes of %s are named by Ensembl identifiers, which models that learned symbols will not know. Columns of "
            "its var are %s: one with symbols goes into `gene_id_key=`."
        )
        logger.warning(message, path.name, list(table.var))
    return table


def _are_counts(X: Any) -> bool:
    values = X.data if issparse(X) else np.asarray(X)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values == np.round(values)).all())


def authors_centers(obs: pd.DataFrame, where: str) -> np.ndarray:
    """Centers (n, 2), x and y in pixels, of a table of DeepSpot's authors: their `x_pixel` is the row."""
    for column in ("x_pixel", "y_pixel"):
        key_in(column, obs.columns, f"obs of {where}")
    return _elements.check_centers(obs[["y_pixel", "x_pixel"]], obs.index, f"obs of {where}")


def rename_authors(obs: pd.DataFrame) -> pd.DataFrame:
    """Columns of DeepSpot's authors under the names that they have elsewhere."""
    return obs.rename(columns={old: new for old, new in AUTHORS.items() if new not in obs.columns})


def add_facts(obs: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """`obs` with what is known of the whole sample, as categories."""
    known = {key: value for key, value in facts.items() if value is not None}
    return obs.assign(**{key: pd.Categorical([str(value)] * len(obs)) for key, value in known.items()})


def mpp_from_spots(centers: np.ndarray, obs: pd.DataFrame, pitch_um: float) -> float:
    """µm per pixel from centers (n, 2) that are `pitch_um` apart: by the array of Visium if `obs` has it."""
    in_array = pitch_um == _elements.PITCH_UM and set(ARRAY) <= set(obs.columns)
    if in_array and np.isfinite(obs[list(ARRAY)].to_numpy(dtype=float)).all():
        return _elements.visium_mpp(centers, obs)
    return pitch_um / pitch_px(centers)


def lay_on_image(
    attrs: dict[str, Any], image: Path, table: AnnData, centers: np.ndarray, *, mpp: float, diameter_um: float
) -> SpatialData:
    """Make an object of an image, and of the table and the centers (n, 2) of the spots that lie in it.

    `attrs` is what it keeps of the data set.
    """
    sample = attrs["sample"]
    if _is_tiled(image):  # its pixels are read when they are needed
        sdata = slide(image, mpp=mpp, name=sample)
    else:
        sdata = _elements.image_object(_elements.load_image(image), sample)
    key = next(iter(sdata.images))
    height, width = size = level_sizes(pyramid_levels(sdata, key))[0]
    kept = np.all((centers >= 0) & (centers <= (width, height)), axis=1)
    if (~kept).sum() > FEW * len(kept):
        check_inside(centers, size, f"image {key!r}")
    if not kept.all():
        logger.warning("%d of %d spots of %s lie outside its image and are left out.", (~kept).sum(), len(kept), sample)
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
