from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot import _check, _choose, _coords, _keys, _store
from deepspot._logging import logger

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
        raise ValueError("Pass either `mpp` (µm per pixel) or `spot_pitch_um` (µm between neighbouring spots).")
    image_key = _check.one_key(image_key, sdata.images, "sdata.images", "image_key")
    if spot_pitch_um is not None or spot_diameter_um is not None:
        shapes_key = _choose.only_shapes(sdata, image_key, shapes_key)
    if spot_pitch_um is not None:
        pitch = _coords.pitch_px(_coords.centers(sdata, image_key, str(shapes_key)))
        mpp = _check.positive(spot_pitch_um, "spot_pitch_um") / pitch
    scale = float(_check.positive(mpp, "mpp"))  # type: ignore[arg-type]
    hint = " `sdata.write_transformations()` saves it." if sdata.is_backed() else ""
    if spot_diameter_um is not None:
        _check.positive(spot_diameter_um, "spot_diameter_um")
        _store.set_column(sdata, str(shapes_key), _keys.DIAMETER, spot_diameter_um)
        hint += " The diameter stays in memory until the shapes are written anew." if sdata.is_backed() else ""
    related = _coords.set_scale(sdata, image_key, scale)
    logger.info("Set %.4g µm per pixel for %r and %d related elements.%s", scale, image_key, len(related) - 1, hint)
