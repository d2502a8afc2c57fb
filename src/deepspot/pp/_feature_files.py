"""Features of patches that were made elsewhere: in an HDF5 file, a table, or an array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import FEATURES, key_in
from deepspot._sdata.tables import kind_of, regions_of, rows_of
from deepspot._sdata.view import NO_IMAGE, SlideView
from deepspot._sdata.write import check_memory
from deepspot._spatial.transforms import centers_px
from deepspot.errors import InputError

if TYPE_CHECKING:
    import h5py

HDF5 = (".h5", ".hdf5")


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Features (m, d) of patches, and what their source states about the patches.

    `names` (m,) are barcodes; `corners` (m, 2) are x and y of the top left of a patch, or `centers` (m, 2) of its
    center; `side` is that of a patch. Lengths are in full-resolution pixels: of the slide for `corners`, of the image
    of the view for `centers`. `encoder` is empty if unknown; `size` are width and height of the slide.
    """

    values: np.ndarray
    source: str
    names: np.ndarray | None = None
    corners: np.ndarray | None = None
    centers: np.ndarray | None = None
    side: float | None = None
    nominal_um: float | None = None
    encoder: str = ""
    size: tuple[int, int] | None = None


def read_file(path: Path) -> PatchFeatures:
    """Read features of TRIDENT, CLAM or HEST-Benchmark."""
    import h5py

    if path.suffix not in HDF5:
        raise InputError(
            f"{path.name!r} is not an HDF5 file ({' or '.join(HDF5)}). For other files pass the features as an array, "
            "with one row for each spot."
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path.name)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read as HDF5 ({error}). Get a new copy.") from error


def _read(file: h5py.File, name: str) -> PatchFeatures:
    kind = next((kind for kind in ("features", "embeddings") if kind in file), None)
    if kind is None:
        patches = " It has only the coordinates of patches." * ("coords" in file)
        raise InputError(
            f"{name!r} has no dataset 'features' (TRIDENT, CLAM) or 'embeddings' (HEST-Benchmark), but {sorted(file)}."
            f"{patches} Pass the file with the features of the patches."
        )
    stored = file[kind]
    if stored.ndim != 2:
        whole = " It is the embedding of the whole slide." if stored.shape not in ((), (0,)) else ""
        raise InputError(f"{kind!r} of {name!r} must be of shape (patches, d), got {stored.shape}.{whole}")
    check_memory(stored.size * np.dtype(np.float32).itemsize, f"The features in {name!r}", "Raise the limit.")
    values = stored[:].astype(np.float32)
    names = next((np.asarray(file[key][:]).ravel() for key in ("barcodes", "barcode") if key in file), None)
    if names is not None:
        names = np.array([text.decode() if isinstance(text, bytes) else str(text) for text in names], dtype=object)
    corners = np.asarray(file["coords"][:], dtype=np.float64) if "coords" in file else None
    for what, rows, shape in (("barcodes", names, (len(values),)), ("coords", corners, (len(values), 2))):
        if rows is not None and rows.shape != shape:
            raise InputError(f"{what!r} of {name!r} must be of shape {shape}, as there are features, got {rows.shape}.")
    if names is None and corners is None:
        raise InputError(f"{name!r} has neither 'barcodes' nor 'coords', so its rows cannot be matched to spots.")
    stated = _attributes(file["coords"]) | _attributes(stored) if corners is not None else _attributes(stored)
    size = [int(stated[key]) for key in ("level0_width", "level0_height") if key in stated]
    return PatchFeatures(
        values,
        name,
        names=names,
        corners=corners,
        side=_side(stated),
        nominal_um=_nominal_um(stated),
        encoder=str(stated.get("encoder", "")),
        size=(size[0], size[1]) if len(size) == 2 else None,
    )


def _attributes(dataset: h5py.Dataset) -> dict[str, Any]:
    """Return the attributes of a dataset. TRIDENT stores None as text."""
    known = {key: value.decode() if isinstance(value, bytes) else value for key, value in dataset.attrs.items()}
    return {key: value for key, value in known.items() if not isinstance(value, str) or value != "None"}


def _side(stated: dict[str, Any]) -> float | None:
    """Return the side of a patch in pixels of level 0: of TRIDENT, of HEST, or of CLAM if patches are of this level."""
    for key in ("patch_size_level0", "patch_size_src"):
        if key in stated:
            return float(stated[key])
    # The size of a patch at another level needs the downsampling of that level, which is not in the file.
    if "patch_size" in stated and stated.get("patch_level") == 0:
        return float(stated["patch_size"]) * float(stated.get("custom_downsample", 1))
    return None


def _nominal_um(stated: dict[str, Any]) -> float | None:
    """Return the side of a patch of TRIDENT in µm by its magnification, of which 10× is 1 µm per pixel."""
    if {"patch_size", "target_magnification"} <= stated.keys():
        return float(stated["patch_size"]) * 10 / float(stated["target_magnification"])
    return None


def read_table(view: SlideView, key: str) -> PatchFeatures:
    """Return the features in `X` of a table: of the spots, of other shapes such as tiles, or with barcodes as names."""
    sdata = view.sdata
    table = sdata.tables[key_in(key, sdata.tables, "sdata.tables")]
    if kind_of(table) == FEATURES:
        raise InputError(f"sdata.tables[{key!r}] is a feature table already.")
    check_memory(table.X.size * np.dtype(np.float32).itemsize, f"The features in {key!r}", "Raise the limit.")
    values = np.asarray(table.X.toarray() if hasattr(table.X, "toarray") else table.X, dtype=np.float32)
    regions = regions_of(sdata, key)
    if not regions:
        return PatchFeatures(values, key, names=table.obs_names.to_numpy(dtype=object))
    region = view.shapes_key if view.shapes_key in regions else regions[0]
    rows = rows_of(table, region)
    values = values[rows.index]
    shapes = sdata.shapes[region]
    found = shapes.index.get_indexer(rows)
    if (found < 0).any():
        raise InputError(
            f"{(found < 0).sum()} rows of sdata.tables[{key!r}] are of no shape in {region!r}. Remove them."
        )
    bounds = shapes.geometry.bounds
    # Circles are points, without bounds.
    width = float((bounds["maxx"] - bounds["minx"]).median())
    if region == view.shapes_key:
        return PatchFeatures(values, key, names=rows.to_numpy(dtype=object), side=_in_pixels(view, region, width))
    where = view.shapes_key if view.image_key == NO_IMAGE else view.image_key
    centers = centers_px(sdata, where, region, view.coordinate_system)[found]
    return PatchFeatures(values, key, centers=centers, side=_in_pixels(view, region, width))


def _in_pixels(view: SlideView, region: str, width: float) -> float | None:
    """Convert the width of polygons to pixels of the image."""
    if width <= 0:
        return None
    shapes = view.sdata.shapes[region]
    own = np.column_stack([shapes.geometry.centroid.x, shapes.geometry.centroid.y])
    where = view.shapes_key if view.image_key == NO_IMAGE else view.image_key
    there = centers_px(view.sdata, where, region, view.coordinate_system)
    spread = np.ptp(own, axis=0).max()
    return width if spread == 0 else width * float(np.ptp(there, axis=0).max() / spread)


def as_array(values: Any, n: int) -> PatchFeatures:
    """Return an array of features in the order of the n spots."""
    values = np.asarray(values)
    if values.ndim != 2 or len(values) != n or values.dtype.kind not in "fiu":
        raise InputError(
            f"`features` must be numbers of shape ({n}, d), one row for each spot in the order of the shapes, got "
            f"{values.dtype} of shape {values.shape}."
        )
    return PatchFeatures(values.astype(np.float32), "an array")
