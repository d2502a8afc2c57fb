from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot._core.keys import DIAMETER
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive, one_key
from deepspot._sdata.select import select_shapes
from deepspot._sdata.write import set_column
from deepspot._spatial.transforms import centers_px, pitch_px, write_scale
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData


def set_scale(
    sdata: SpatialData,
    *,
    mpp: float | None = None,
    spot_pitch_um: float | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    spot_diameter_um: float | None = None,
) -> None:
    """State how large the pixels of an image are.

    Parameters
    ----------
    sdata
        Object with an image.
    mpp
        µm per pixel of this image, at its finest level. For an image that was scaled down that is not what the scanner
        states.
    spot_pitch_um
        Instead of `mpp`: distance between neighbouring spots in µm (Visium 100, Spatial Transcriptomics 200).
    image_key, shapes_key
        Image and spots; needed if there are several.
    spot_diameter_um
        Diameter of the tissue that a spot measures in µm (Visium 55), kept with the shapes as the default tile side.

    Returns
    -------
    None. Sets a transformation to the coordinate system ``"microns"`` on the image and on every element that shares a
    coordinate system with it, and, if `spot_diameter_um` is given, the column ``diameter_um`` of the shapes.

    Raises
    ------
    ValueError
        If not exactly one of `mpp` and `spot_pitch_um` is given.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1)["P1_S1"]
    >>> ds.pp.set_scale(sdata, spot_pitch_um=100)
    """
    if (mpp is None) == (spot_pitch_um is None):
        raise InputError("Pass either `mpp` (µm per pixel) or `spot_pitch_um` (µm between neighbouring spots).")
    image_key = one_key(image_key, sdata.images, "sdata.images", "image_key")
    needs_spots = spot_pitch_um is not None or spot_diameter_um is not None
    spots = select_shapes(sdata, image_key, shapes_key) if needs_spots else ""
    if spot_pitch_um is not None:
        pitch = pitch_px(centers_px(sdata, image_key, spots))
        mpp = check_positive(spot_pitch_um, "spot_pitch_um") / pitch
    scale = float(check_positive(mpp, "mpp"))
    hint = " `sdata.write_transformations()` saves it." if sdata.is_backed() else ""
    if spot_diameter_um is not None:
        check_positive(spot_diameter_um, "spot_diameter_um")
        set_column(sdata, spots, DIAMETER, spot_diameter_um)
        hint += " The diameter stays in memory until the shapes are written anew." if sdata.is_backed() else ""
    related = write_scale(sdata, image_key, scale)
    logger.info("Set %.4g µm per pixel for %r and %d related elements.%s", scale, image_key, len(related) - 1, hint)
