from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deepspot._core.keys import ADD_IMAGE, ARRAY, artifacts_name, checked, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._image.tiles import coarse_image, level_sizes, pyramid_levels
from deepspot._image.tissue import PER_TILE, TISSUE_RULES
from deepspot._sdata.shapes import add_shapes
from deepspot._sdata.write import check_new_key
from deepspot._spatial.geometry import LAYOUTS, spot_grid
from deepspot._spatial.transforms import Placement, circles_at, microns_per_pixel, polygons_px
from deepspot.errors import InputError

from ._covered import MIN_COVER, covered

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot


@checked
def spots(
    sdata: SpatialData,
    *,
    model: DeepSpot | str | Path | None = None,
    diameter_um: float | None = None,
    pitch_um: float | None = None,
    layout: Literal["square", "hexagonal"] = "square",
    tissue: Literal["brightness", "saturation"] | None = "brightness",
    exclude_artifacts: bool = True,
    image_key: str | None = None,
    key_added: str = "spots",
    overwrite: bool = False,
) -> None:
    """Place spots on the tissue of a whole slide image.

    Sizes are in µm: a slide gets the same spots at every magnification. Tissue is detected on a downscaled image; the
    slide is not read at full resolution.

    Parameters
    ----------
    sdata
        Object with an image of known scale.
    model
        Model that will predict the spots, as in :func:`deepspot.tl.predict`. It sets the default of `diameter_um` and
        `pitch_um`. None is the embedded model: spots of 100 µm, about 200 µm apart.
    diameter_um
        Diameter of a spot, and side of its tile. By default the tile side that `model` was trained with.
    pitch_um
        Distance between the centers of neighboring spots. By default that of the spots that `model` was trained on.
    layout
        ``"square"`` grid as in the paper, or ``"hexagonal"`` as in Visium. The grid is centered in the image, and every
        tile is completely inside the image.
    tissue
        Rule that selects spots on tissue:

        - ``"brightness"``: spots whose tile has a mean RGB of at most 200, the rule of the paper. Ink, shadows and dirt
          count as tissue; pale tissue does not.
        - ``"saturation"``: spots whose tile is colored, by Otsu's threshold on the saturation relative to the glass of
          the slide. Excludes blue, green, red and black ink, shadows and dirt; includes pale stains.
        - None: all spots.

        Both rules treat exact black as glass, because readers return black where nothing was scanned.
    exclude_artifacts
        Leave out spots of whose tile at least half is in the regions that :func:`deepspot.pp.quality` found in this
        image (``<image>_artifacts``). Without such regions, nothing is left out for this reason.
    image_key
        Image; needed only if there are several.
    key_added
        Name of the new shapes.
    overwrite
        Replace existing shapes of this name.

    Returns
    -------
    None. Adds circles ``sdata.shapes[key_added]`` in the coordinate systems of the image, with the columns

    ``diameter_um``
        float64.
    ``array_row``, ``array_col``
        int64, position in the grid. In a hexagonal grid, as in Visium, `array_col` increases by two along a row.

    Raises
    ------
    KeyError
        If `image_key` does not exist.
    FileNotFoundError
        If `model` does not exist.
    ValueError
        If shapes of this name exist, the scale of the image is unknown, an argument is out of range, no spot fits into
        the image, there is no tissue, all tissue is in regions with artifacts, or the model has no size of spots.

    References
    ----------
    DeepSpot, section 4.5.4 (brightness rule).

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.pp.spots(sdata, diameter_um=55, pitch_um=55, key_added="dense")
    >>> sdata.shapes["dense"].columns.tolist()
    ['geometry', 'radius', 'diameter_um', 'array_row', 'array_col']
    """
    import numpy as np
    import pandas as pd

    image_key = one_key(image_key, sdata.images, "sdata.images", "image_key", ADD_IMAGE)
    check_new_key(sdata, key_added, overwrite=overwrite, kind="shapes")
    if layout not in LAYOUTS:
        raise InputError(f"`layout` must be one of {list(LAYOUTS)}, got {layout!r}.")
    if tissue is not None and tissue not in TISSUE_RULES:
        raise InputError(f"`tissue` must be one of {list(TISSUE_RULES)}, or None for all spots, got {tissue!r}.")
    diameter, pitch = _spot_size(model, diameter_um, pitch_um)
    mpp = microns_per_pixel(sdata, image_key)
    pyramid = pyramid_levels(sdata, image_key)
    height, width = level_sizes(pyramid)[0]
    _check_fits(image_key, (width * mpp, height * mpp), mpp, diameter, pitch)

    centers, array = spot_grid(width, height, pitch / mpp, diameter / mpp, layout)
    what = "spots"
    if tissue is not None:
        side = diameter / mpp
        rgb, scale = coarse_image(pyramid, side / PER_TILE)
        keep = TISSUE_RULES[tissue](rgb, centers / scale, side / scale, f"Image {image_key!r}")
        if not keep.any():
            other = next(rule for rule in TISSUE_RULES if rule != tissue)
            raise InputError(
                f"Image {image_key!r} shows no tissue: the rule {tissue!r} selects none of {len(keep):,} spots. Look "
                f"at the slide, and try `tissue={other!r}`, or `tissue=None` for all spots."
            )
        centers, array = centers[keep], array[keep]
        what = f"spots on tissue ({keep.mean():.0%} of {len(keep):,}, by {tissue})"
    artifacts_key = artifacts_name(image_key)
    if exclude_artifacts and artifacts_key in sdata.shapes:
        polygons = polygons_px(sdata, image_key, artifacts_key)
        bad = covered(polygons, np.zeros(len(polygons)), centers, diameter / mpp).sum(axis=1).to_numpy() >= MIN_COVER
        if bad.all():
            raise InputError(
                f"All {len(bad):,} {what} are in the regions of sdata.shapes[{artifacts_key!r}]. Look at the slide; "
                "`exclude_artifacts=False` keeps these spots."
            )
        logger.info("Left out %s spots in the regions of sdata.shapes[%r].", f"{bad.sum():,}", artifacts_key)
        centers, array = centers[~bad], array[~bad]
    placement = Placement(centers=centers, mpp=mpp, index=pd.RangeIndex(len(centers)))
    circles = circles_at(sdata, image_key, image_key, placement, diameter)
    circles[list(ARRAY)] = array
    add_shapes(sdata, key_added, circles, what=what, overwrite=overwrite)


def _spot_size(
    model: DeepSpot | str | Path | None, diameter_um: float | None, pitch_um: float | None
) -> tuple[float, float]:
    """Return diameter and pitch in µm; load the model only if one of them is missing."""
    for name, value in {"diameter_um": diameter_um, "pitch_um": pitch_um}.items():
        if value is not None:
            check_positive(value, name)
    if diameter_um is not None and pitch_um is not None:
        return float(diameter_um), float(pitch_um)
    from deepspot.models._registry import as_model

    return as_model(model, log=False).spot_size(diameter_um, pitch_um)


def _check_fits(image_key: str, size_um: tuple[float, float], mpp: float, diameter: float, pitch: float) -> None:
    image = f"image {image_key!r} of {size_um[0]:,.0f} × {size_um[1]:,.0f} µm, at {mpp:.4g} µm per pixel"
    if diameter > min(size_um):
        raise InputError(
            f"No spot of {diameter:g} µm fits into {image}. Choose a smaller `diameter_um`, or check the scale."
        )
    if pitch > max(size_um):
        raise InputError(f"`pitch_um={pitch:g}` is more than {image}. Choose a smaller one, or check the scale.")
    if pitch < mpp:
        raise InputError(f"`pitch_um={pitch:g}` is less than a pixel of {image}. Visium has 100.")
