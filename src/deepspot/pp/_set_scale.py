from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot._core.keys import ADD_IMAGE, DIAMETER, checked, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_mpp, check_positive
from deepspot._sdata.shapes import set_column
from deepspot._sdata.view import select_shapes
from deepspot._spatial.transforms import centers_px, pitch_px, write_scale
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData


@checked
def set_scale(
    sdata: SpatialData,
    *,
    mpp: float | None = None,
    pitch_um: float | None = None,
    diameter_um: float | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
) -> None:
    """Set the pixel size of an image in µm, or in an object without images the unit of its spots.

    Parameters
    ----------
    sdata
        Object with an image. In an object without images, the coordinates of the spots are pixels of the slide.
    mpp
        µm per pixel of this image at full resolution. For a downscaled image this differs from the number in the header
        of the original file.
    pitch_um
        Alternative to `mpp`: distance between neighboring spots in µm (Visium 100, Spatial Transcriptomics 200).
    diameter_um
        Diameter of the tissue that a spot measures in µm (55 for Visium, 100 for Spatial Transcriptomics). Stored with
        the shapes as the default tile side.
    image_key, shapes_key
        Image and spots; needed only if there are several.

    Returns
    -------
    None. Sets a transformation to the coordinate system ``"microns"`` on the image and on every element that shares
    another coordinate system with it; with `diameter_um` also the column ``diameter_um`` of the shapes.

    Raises
    ------
    KeyError
        If an element does not exist.
    ValueError
        If not exactly one of `mpp` and `pitch_um` is given, a number is not above 0, or the µm per pixel are
        implausible (outside 0.05–10).

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1)["P1_S1"]
    >>> ds.pp.set_scale(sdata, pitch_um=100)
    """
    if (mpp is None) == (pitch_um is None):
        raise InputError("Pass either `mpp` (µm per pixel) or `pitch_um` (µm between neighboring spots).")
    if sdata.images or image_key is not None:
        image_key = one_key(image_key, sdata.images, "sdata.images", "image_key", ADD_IMAGE)
        needs_spots = pitch_um is not None or diameter_um is not None
        spots = select_shapes(sdata, image_key, shapes_key) if needs_spots else ""
    else:
        image_key = spots = one_key(shapes_key, sdata.shapes, "sdata.shapes", "shapes_key", ADD_IMAGE)
    if pitch_um is not None:
        mpp = check_positive(pitch_um, "pitch_um") / pitch_px(centers_px(sdata, image_key, spots))
    scale = float(check_mpp(mpp, "`mpp`" if pitch_um is None else "`pitch_um`"))
    hint = " `sdata.write_transformations()` saves it." if sdata.is_backed() else ""
    if diameter_um is not None:
        set_column(sdata, spots, DIAMETER, check_positive(diameter_um, "diameter_um"))
        hint += " The diameter is in memory until the shapes are written again." if sdata.is_backed() else ""
    related = write_scale(sdata, image_key, scale)
    logger.info("Set %.4g µm per pixel for %r and %d related elements.%s", scale, image_key, len(related) - 1, hint)
