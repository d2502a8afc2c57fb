from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from deepspot._core.keys import ARRAY, one_key
from deepspot._core.validate import check_positive
from deepspot._image.tiles import coarse_image, level_sizes, pyramid_levels
from deepspot._image.tissue import PER_TILE, tissue_by_brightness, tissue_by_saturation
from deepspot._sdata.write import add_shapes, check_new_key
from deepspot._spatial.geometry import LAYOUTS, spot_grid
from deepspot._spatial.transforms import Placement, circles_at, microns_per_pixel
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

RULES = {"brightness": tissue_by_brightness, "saturation": tissue_by_saturation}


def spots(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    diameter_um: float = 55.0,
    pitch_um: float = 100.0,
    layout: Literal["hexagonal", "square"] = "hexagonal",
    tissue: Literal["brightness", "saturation"] | None = "brightness",
    key_added: str = "spots",
    overwrite: bool = False,
) -> None:
    """Lay spots over the tissue of a slide that has none.

    Sizes are in µm, so that a slide gets the same spots whatever its magnification. What is tissue is decided on a
    coarse view, without reading the slide at full resolution.

    Parameters
    ----------
    sdata
        Object with an image of known scale.
    image_key
        The image; needed if there are several.
    diameter_um
        Diameter of a spot; its tile is a square of this side. Visium's is 55.
    pitch_um
        Distance between neighboring spots. Visium's is 100.
    layout
        ``"hexagonal"`` as Visium, or ``"square"`` as in the paper. The array lies in the middle of the image; all of
        each tile lies inside it.
    tissue
        - ``"brightness"``: spots whose tile has a mean RGB of 200 or less, as in the paper. Ink, shadows and dirt count
          as tissue, and tissue that is pale does not.
        - ``"saturation"``: spots whose tile is colored, by Otsu's threshold on the saturation against the slide's own
          glass. Blue, green, red and black ink, shadows and dirt are left out, and pale stains are found.
        - None: spots everywhere.

        In both rules exact black counts as glass: readers show it where nothing was scanned.
    key_added
        Name of the new shapes.
    overwrite
        Replace shapes of that name.

    Returns
    -------
    None. Adds ``sdata.shapes[key_added]``: circles in the coordinate systems of the image, with the columns

    ``diameter_um``
        float64.
    ``array_row``, ``array_col``
        int64, position in the array. In a hexagonal one the next spot of a row is two columns away, as in Visium.

    Raises
    ------
    KeyError
        If there is no such image.
    ValueError
        If shapes of that name exist, the scale of the image is unknown, a number or a name is out of range, no spot
        fits into the image, or there is no tissue.

    References
    ----------
    Section 4.5.4 of the paper: the rule on brightness.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.pp.spots(sdata, pitch_um=55, layout="square", key_added="dense")
    >>> sdata.shapes["dense"].columns.tolist()
    ['geometry', 'radius', 'diameter_um', 'array_row', 'array_col']
    """
    import pandas as pd

    image_key = one_key(image_key, sdata.images, "sdata.images", "image_key")
    check_new_key(sdata, key_added, overwrite=overwrite, kind="shapes")
    if layout not in LAYOUTS:
        raise InputError(f"`layout` must be one of {list(LAYOUTS)}, got {layout!r}.")
    if tissue is not None and tissue not in RULES:
        raise InputError(f"`tissue` must be one of {list(RULES)}, or None for spots everywhere, got {tissue!r}.")
    side = check_positive(diameter_um, "diameter_um")
    distance = check_positive(pitch_um, "pitch_um")
    mpp = microns_per_pixel(sdata, image_key)
    pyramid = pyramid_levels(sdata, image_key)
    height, width = level_sizes(pyramid)[0]
    _check_fits(image_key, (width * mpp, height * mpp), mpp, side, distance)

    centers, array = spot_grid(width, height, distance / mpp, side / mpp, layout)
    what = "spots"
    if tissue is not None:
        keep = _on_tissue(pyramid, centers, side / mpp, tissue, f"Image {image_key!r}")
        centers, array = centers[keep], array[keep]
        what += f" ({keep.mean():.0%} of {len(keep):,} places, those on tissue by {tissue})"
    placement = Placement(centers=centers, mpp=mpp, index=pd.RangeIndex(len(centers)))
    made = circles_at(sdata, image_key, image_key, placement, side)
    made[list(ARRAY)] = array
    add_shapes(sdata, key_added, made, what=what, overwrite=overwrite)


def _check_fits(image_key: str, size: tuple[float, float], mpp: float, side: float, distance: float) -> None:
    image = f"image {image_key!r} of {size[0]:,.0f} × {size[1]:,.0f} µm, at {mpp:.4g} µm per pixel"
    if side > min(size):
        raise InputError(f"No spot of {side:g} µm fits into {image}. Make `diameter_um` smaller, or check the scale.")
    if distance > max(size):
        raise InputError(f"`pitch_um={distance:g}` is more than {image}. Make it smaller, or check the scale.")
    if distance < mpp:
        raise InputError(f"`pitch_um={distance:g}` is less than a pixel of {image}. Visium's is 100.")


def _on_tissue(pyramid: list[DataArray], centers: np.ndarray, side: float, rule: str, name: str) -> np.ndarray:
    rgb, scale = coarse_image(pyramid, side / PER_TILE)
    keep = RULES[rule](rgb, centers / scale, side / scale, name)
    if not keep.any():
        other = next(key for key in RULES if key != rule)
        raise InputError(
            f"{name} shows no tissue: none of {len(keep):,} spots lies on some by {rule}. Look at the slide, and try "
            f"`tissue={other!r}`, or None for spots everywhere."
        )
    return keep
