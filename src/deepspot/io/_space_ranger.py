"""Shared code of the readers of 10x Genomics: options, counts, and the images that Space Ranger downscaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.logging import logger
from deepspot._core.validate import check_count, check_path
from deepspot._image.tiles import image_size
from deepspot._spatial.transforms import scaling
from deepspot.errors import InputError, InputTypeError

from ._elements import image_element, load_image, reading

if TYPE_CHECKING:
    from spatialdata import SpatialData

COUNTS, FACTORS = "filtered_feature_bc_matrix.h5", "scalefactors_json.json"
COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")

PYRAMID = {"scale_factors": [2, 2, 2, 2]}


def check_options(kwargs: dict[str, Any], known: Iterable[str], read: Callable[..., Any]) -> dict[str, Any]:
    """Check the options for a reader, and remove those without a value; return those for the full image."""
    from inspect import signature

    flags = {name for name, parameter in signature(read).parameters.items() if isinstance(parameter.default, bool)}
    for key, value in list(kwargs.items()):
        if key not in known:
            raise InputTypeError(
                f"`{read.__name__}` has no argument {key!r}. Arguments of the reader are {sorted(known)}."
            )
        if value is None:
            del kwargs[key]
        elif key in flags:
            if not isinstance(value, bool):
                raise InputTypeError(f"`{key}` must be True or False, got {value!r}.")
        elif key.endswith("_file"):
            kwargs[key] = check_path(value, key)
        elif key.endswith("_kwargs") and not isinstance(value, Mapping):
            raise InputTypeError(f"`{key}` must be a dictionary, got {type(value).__name__}.")
    options = dict(kwargs.pop("image_models_kwargs", {}))
    factors = options.get("scale_factors")
    if isinstance(factors, str) or not isinstance(factors, Sequence | None):
        raise InputTypeError(f"`scale_factors` of `image_models_kwargs` must be a list of numbers, got {factors!r}.")
    for factor in factors or ():
        if not isinstance(factor, Mapping):  # of a factor for each axis
            check_count(factor, "scale_factors")
    return PYRAMID | options


TECHNOLOGIES = {"visium": "Visium", "visium_hd": "Visium HD", "xenium": "Xenium"}
"""Readers of output folders, and what they read."""


def technology_of(folder: Path) -> str | None:
    """Return the reader of an output folder of 10x Genomics, by the files that are in no other; None if unknown."""
    if (folder / "experiment.xenium").is_file():
        return "xenium"
    # "binned_outputs", its archive, bins that were unpacked without the folder above, or the folder of some bins.
    hd = ("binned_outputs*", "square_*um", "spatial/tissue_positions.parquet")
    if any(any(folder.glob(name)) for name in hd):
        return "visium_hd"
    return "visium" if (folder / "spatial").is_dir() else None


def check_technology(folder: Path, reader: str) -> None:
    """Raise if a folder is the output for another reader."""
    found = technology_of(folder)
    if found == "visium" and not any(folder.glob("spatial/tissue_positions*.csv")):
        return  # an incomplete folder of Visium HD has "spatial", too
    if found is not None and found != reader:
        raise InputError(
            f"{folder} is an output of {TECHNOLOGIES[found]}, and not of {TECHNOLOGIES[reader]}. Read it with "
            f"`ds.io.{found}`."
        )


def check_counts(path: Path) -> None:
    """Raise if a file is not a table of counts in the format of 10x Genomics."""
    import h5py

    with reading(path, "HDF5"), h5py.File(path) as file:
        groups = [group for group in file.values() if isinstance(group, h5py.Group)]
        missing = {"barcodes", "data", "indices", "indptr", "shape"}.difference(*groups)
    if missing:
        raise InputError(f"{path} has no {sorted(missing)}: it is damaged or holds no counts. Get a new copy.")


def check_same_slide(
    sdata: SpatialData, dataset_id: str, factors: dict[str, float], size: tuple[int, int], image_file: Path
) -> None:
    """Raise if the images that Space Ranger downscaled are not of an image of this height and width."""
    for name in ("hires", "lowres"):
        key, factor = f"{dataset_id}_{name}_image", factors[f"tissue_{name}_scalef"]
        if key in sdata.images:
            small, expected = np.array(image_size(sdata, key)), np.array(size) * factor
            if (np.abs(small - expected) > 2 + 0.02 * expected).any():
                (height, width), (needed, across) = size, (small / factor).round().astype(int)
                raise InputError(
                    f"Image {image_file.name!r} has {width} × {height} px, but tissue_{name}_image.png was made of one "
                    f"with about {across} × {needed}. Pass the image that was the input of Space Ranger, unchanged."
                )


def add_downscaled(sdata: SpatialData, folder: Path, dataset_id: str, factors: dict[str, float]) -> None:
    """Add the hires and lowres images of Space Ranger if they are in color; tiles are not read from them."""
    from spatialdata.transformations import Identity

    for name in ("hires", "lowres"):
        path = folder / "spatial" / f"tissue_{name}_image.png"
        if not path.is_file():
            continue
        try:
            pixels = load_image(path)
        except (InputError, OSError) as error:
            logger.warning("%s is left out: %s", path, error)
            continue
        to_full = scaling(1 / factors[f"tissue_{name}_scalef"])
        systems = {f"{dataset_id}_downscaled_{name}": Identity(), dataset_id: to_full}
        sdata.images[f"{dataset_id}_{name}_image"] = image_element(pixels, systems)
