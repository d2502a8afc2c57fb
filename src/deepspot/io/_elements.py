"""Shared code of the readers: elements of a SpatialData from an image, spot centers and a table."""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import ARRAY, DIAMETER, LINK, PIXELS, key_in
from deepspot._core.logging import logger
from deepspot._sdata.view import NOUNS, Noun
from deepspot._sdata.write import check_name, check_writable
from deepspot._spatial.transforms import pitch_from_array, scaling, write_scale
from deepspot.errors import DeepSpotError, InputError

from ._image_file import read_image

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.array import Array
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

CHUNK = 2048

PITCH_UM, VISIUM_UM, SPACE_RANGER_UM = 100.0, 55.0, 65.0
"""Visium in µm: pitch, diameter of the measured tissue, and diameter in the files of Space Ranger."""

# In the hexagonal array a step of `array_row` is √3/2 of the pitch, and a step of `array_col` is half of it.
STEPS = np.array([np.sqrt(3) / 2, 0.5])


@contextmanager
def reading(path: Path, kind: str = ".h5ad") -> Iterator[None]:
    """Raise errors of libraries as an InputError with the path; suppress anndata's warning on repeated gene names."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")
            yield
    except (DeepSpotError, FileNotFoundError, Warning):  # a filter may raise warnings
        raise
    except MemoryError as error:
        raise InputError(
            f"{path} needs more memory than is free, or is damaged. Free memory, or copy it again."
        ) from error
    except Exception as error:  # damaged files raise many kinds of errors
        # Errors of the system, such as a lost disk, are no damage. A damaged TIFF may state an offset that is invalid.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        problem = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is damaged, incomplete or not a valid {kind} ({problem}). Get a new copy.") from error


def read_store(path: Path, parts: tuple[str, ...] | None = None) -> SpatialData:
    """Read a SpatialData store, or some kinds of its elements."""
    from spatialdata import read_zarr

    with reading(path, "SpatialData .zarr"):
        return read_zarr(path, selection=parts)


def load_image(image: str | Path | np.ndarray, *, planes: bool = False) -> np.ndarray:
    """Return an image as RGB uint8 (h, w, 3), from a .jpg, .png or .tif file or an array of that shape.

    `planes` is that of :func:`deepspot.io._image_file.read_image`.
    """
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        with reading(path, "image"):
            return read_image(path, planes=planes)
    shape: tuple[int, ...] = getattr(image, "shape", ())
    dtype = getattr(image, "dtype", type(image).__name__)
    if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise InputError(
            f"`image` must be RGB in uint8 of shape (height, width, 3), got {dtype} {shape}. Remove an alpha channel "
            "with `image[..., :3]`, move channels to the last axis with `np.moveaxis(image, 0, -1)`, and rescale other "
            "types to 0–255. CMYK and gray images are not H&E in color: export RGB."
        )
    return np.asarray(image)


def image_object(pixels: np.ndarray, name: str, *, downscaled: float = 1.0) -> SpatialData:
    """Return a SpatialData of an image (h, w, 3) that was downscaled by a factor from full resolution."""
    from spatialdata import SpatialData

    check_name(f"{name}_image")
    return SpatialData(images={f"{name}_image": image_element(pixels, {"global": scaling(downscaled)})})


def image_element(pixels: np.ndarray | Array, transformations: dict[str, Any], **kwargs: Any) -> DataArray | DataTree:
    """Return an image (h, w, 3) as an element of a SpatialData; `kwargs` are those of its model."""
    from spatialdata.models import Image2DModel

    options = {"c_coords": ["r", "g", "b"], "chunks": (3, CHUNK, CHUNK)} | kwargs
    return Image2DModel.parse(
        pixels.transpose(2, 0, 1), dims=("c", "y", "x"), transformations=transformations, **options
    )


def as_centers(centers: Any, where: str) -> np.ndarray:
    """Return spot centers as float64 (n, 2), x and y in pixels; columns of a data frame are ordered by their names."""
    shape = np.shape(centers)
    if len(shape) != 2 or shape[1] != 2:
        raise InputError(f"`{where}` must be of shape (n, 2): x and y in pixels. Got {shape}.")
    if isinstance(centers, pd.DataFrame):
        centers = centers.iloc[:, _order([str(name) for name in centers.columns], where)]
    try:
        return np.asarray(centers, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"`{where}` must hold numbers: x and y in pixels ({error}).") from error


def check_centers(centers: Any, names: pd.Index, where: str) -> np.ndarray:
    """Return spot centers as `as_centers` does; raise if there are none, or one is not finite."""
    xy = as_centers(centers, where)
    if not len(xy):
        raise InputError(f"`{where}` has no spots.")
    broken = ~np.isfinite(xy).all(axis=1)
    if broken.any():
        raise InputError(
            f"{broken.sum()} of {len(xy)} spots have no finite coordinates in `{where}`, the first is "
            f"{names[broken][0]!r}. Remove these spots first."
        )
    return xy


# What columns of coordinates are called; the longer words are of Seurat, Giotto and Slide-seq.
_WORDS = {
    "x": r"x|col|column|c|j|imagecol|sdimx|xcoord|xpos|lon|long|longitude|width|horizontal",
    "y": r"y|row|r|i|imagerow|sdimy|ycoord|ypos|lat|latitude|height|vertical|line",
}


def _order(columns: list[str], where: str) -> list[int]:
    """Return the positions of x and y among two columns, by their names or numbers."""
    lower = [name.lower() for name in columns]
    # What differs, such as Y and X in "CenterY_px" and "CenterX_px".
    parts = re.fullmatch(r"(.*)(.*?)(.*)\0\1(.*?)\3", "\0".join(lower), re.DOTALL)
    first, second = parts.group(2, 4) if parts else lower
    if first.isdecimal() and second.isdecimal():
        ascending = [0, 1] if int(first) < int(second) else [1, 0]
        # scikit-image numbers the axes of arrays: "centroid-0" is the row.
        return ascending[::-1] if "centroid" in lower[0] and "0" in (first, second) else ascending
    axes = [_axis([first]), _axis([second])]
    if set(axes) != {"x", "y"}:
        axes = [_axis(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)) for name in columns]
    if set(axes) != {"x", "y"}:
        raise InputError(f"`{where}` has the columns {columns}, and it is not clear which is x. Name them 'x' and 'y'.")
    return [0, 1] if axes[0] == "x" else [1, 0]


def _axis(words: list[str]) -> str | None:
    """Return the axis that words are about, or None if they are about none or both."""
    axes = [axis for axis in "xy" if any(re.fullmatch(f"({_WORDS[axis]})s?", word.lower()) for word in words)]
    return axes[0] if len(axes) == 1 else None


# Text that h5ad files have instead of a boolean. Spots without a value count as in tissue.
_TRUTH = dict.fromkeys(("1", "1.0", "true", "t", "yes", "nan", "none", "<na>", ""), True)
_TRUTH |= dict.fromkeys(("0", "0.0", "false", "f", "no"), False)


def spots_in_tissue(adata: AnnData, name: str) -> AnnData:
    """Return the spots in tissue if the table marks them: by `in_tissue`, or by `tissue` if it is 0 or 1."""
    for column in ("in_tissue", "tissue"):
        if column not in adata.obs:
            continue
        text = [str(value).strip().lower() for value in adata.obs[column]]
        unknown = [value for value in text if value not in _TRUTH]
        if unknown and column == "in_tissue":
            raise InputError(
                f"obs[{column!r}] of {name} must be 1 or 0, or True or False, got {unknown[0]!r}. Correct it, or "
                "remove the column."
            )
        inside = np.array([_TRUTH.get(value, True) for value in text], dtype=bool)
        if unknown or inside.all():  # `tissue` may be the name of an organ
            continue
        if not inside.any():
            logger.warning("obs[%r] of %s marks no spot as in tissue, so all spots are kept.", column, name)
            continue
        logger.info("%d of %d spots of %s are not in tissue and are left out.", (~inside).sum(), len(inside), name)
        return adata[inside]
    return adata


def add_spots(
    sdata: SpatialData,
    table: AnnData,
    centers: np.ndarray,
    *,
    mpp: float,
    diameter_um: float,
    drawn_px: float | None = None,
    table_key: str = "table",
) -> None:
    """Add circles at `centers` (n, 2; full-resolution pixels), their table in the same order, and the scale.

    The columns that link them are added to the table. The circles have the diameter of the tissue, or `drawn_px`.
    """
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Identity

    spots = np.arange(len(centers))
    _rename_unwritable(table)
    # Existing columns of these names, such as an annotation called "region", are kept.
    taken = {str(column).lower() for column in table.obs}
    region_key, instance_key = (key if key not in taken else f"deepspot_{key}" for key in LINK)
    table.obs[region_key] = pd.Categorical(["spots"] * len(table))
    table.obs[instance_key] = spots
    check_writable(table)
    radius = float(drawn_px or diameter_um / mpp) / 2
    circles = ShapesModel.parse(centers, geometry=0, radius=radius, index=spots, transformations={"global": Identity()})
    circles[DIAMETER] = float(diameter_um)
    sdata.shapes["spots"] = circles
    sdata.tables[table_key] = TableModel.parse(table, region="spots", region_key=region_key, instance_key=instance_key)
    sdata.attrs[PIXELS] = "global"
    write_scale(sdata, "spots", mpp)


def _rename_unwritable(table: AnnData) -> None:
    """Rename columns and entries that SpatialData does not accept, such as ``"B cells (CD20)"``, in place."""
    from spatialdata import sanitize_table

    def names() -> list[str]:
        return [str(name) for slot in ("obs", "var", "obsm", "varm", "uns", "layers") for name in getattr(table, slot)]

    for frame in (table.obs, table.var):
        frame.columns = frame.columns.astype(str)
    before = names()
    sanitize_table(table)
    changed = [f"{old!r} to {new!r}" for old, new in zip(before, names(), strict=True) if old != new]
    if changed:
        logger.info("Renamed what SpatialData does not accept as a name: %s.", ", ".join(changed))


def name_genes(adata: AnnData, gene_id_key: str | None) -> None:
    """Name genes by a column of `var` (None keeps the names) and make the names unique, in place.

    Replaced names are kept in ``var["former_name"]``.
    """
    if gene_id_key is not None:
        chosen = adata.var[key_in(gene_id_key, adata.var.columns, "adata.var")]
        missing = int(chosen.isna().sum() + (chosen == "").sum())
        if missing:
            raise InputError(
                f"{missing} genes have no identifier in adata.var[{gene_id_key!r}]. Fill them in, remove these genes, "
                "or leave out `gene_id_key`."
            )
        adata.var["former_name"] = adata.var_names.astype(str)
        adata.var_names = chosen.astype(str).to_numpy()
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    if len(repeated):
        adata.var_names_make_unique()
        warn_repeated_genes(list(repeated))


def warn_repeated_genes(names: list[str]) -> None:
    """Log that gene names were not unique."""
    logger.warning(
        "%d gene names occur more than once (%s). A number was appended to the later ones (%r). `gene_id_key=` names "
        "genes by unique identifiers.",
        len(names),
        ", ".join(map(repr, names[:3])),
        f"{names[0]}-1",
    )


def tissue_diameter(drawn_um: float, pitch_um: float) -> float:
    """Return the diameter of the measured tissue for the diameter in a file and the distance of the spots, in µm."""
    # Spots of Visium have gaps; adjacent ones are squares, such as bins of Visium HD.
    if abs(drawn_um / SPACE_RANGER_UM - 1) > 0.05 or pitch_um < 1.2 * drawn_um:
        return drawn_um
    logger.info(
        "The file states spots of %.0f µm, as Space Ranger does for Visium. They measure %.0f µm of tissue, which is "
        "used as the tile side (`diameter_um=` overrides it).",
        drawn_um,
        VISIUM_UM,
    )
    return VISIUM_UM


def visium_mpp(centers: np.ndarray, obs: pd.DataFrame) -> float:
    """Fit µm per pixel of centers (n, 2) on the array of Visium."""
    return PITCH_UM / pitch_from_array(centers, obs[list(ARRAY)].to_numpy(dtype=float) * STEPS)


def size_of(table: AnnData, noun: Noun = NOUNS["spot"]) -> str:
    """Format the size of a table, whose rows have a noun."""
    return f"{noun.count(table.n_obs)} × {table.n_vars:,} genes"
