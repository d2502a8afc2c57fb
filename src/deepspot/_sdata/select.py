"""Choose image and shapes where the object leaves no doubt, and list the candidates where it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot._core.keys import DIAMETER, PARENT
from deepspot._core.validate import key_in, one_key
from deepspot._spatial.boxes import MIN_TILE_PX, tile_px
from deepspot._spatial.transforms import has_scale, microns_per_pixel, share_coordinate_system

if TYPE_CHECKING:
    from spatialdata import SpatialData


def select_image_and_shapes(
    sdata: SpatialData, image_key: str | None, shapes_key: str | None, tile_um: float | None = None
) -> tuple[str, str]:
    """Names of the image and the shapes to work on."""
    shapes_key = select_shapes(sdata, image_key, shapes_key)
    if image_key is not None:
        return key_in(image_key, sdata.images, "sdata.images"), shapes_key
    related = [key for key in sdata.images if share_coordinate_system(sdata, key, shapes_key)]
    # The small copies that come with Visium are no candidates beside an image that shows the tissue.
    side = known_diameter(sdata, shapes_key) if tile_um is None else tile_um
    fine = [key for key in related if _is_fine(sdata, key, side)]
    if related and not fine:
        px = {key: round(float(side or 0) / microns_per_pixel(sdata, key)) for key in related}
        raise ValueError(
            f"No image shows the spots of {shapes_key!r} in enough pixels: a tile of {side:g} µm would have {px} px, "
            f"at least {MIN_TILE_PX} are needed. Add the full-resolution image that the slide scanner wrote."
        )
    return one_key(None, fine, "sdata.images", "image_key"), shapes_key


def select_shapes(sdata: SpatialData, image_key: str | None, shapes_key: str | None) -> str:
    """Name of the shapes that can be related to an image (None: to any)."""
    if shapes_key is not None and shapes_key in sdata.shapes:
        return shapes_key
    images = list(sdata.images) if image_key is None or image_key not in sdata.images else [image_key]
    related = [key for key in sdata.shapes if any(share_coordinate_system(sdata, image, key) for image in images)]
    # Sub-spots and grids were made of spots, and polygons are regions: they are no candidates beside spots.
    spots = [key for key in related if "radius" in sdata.shapes[key] and PARENT not in sdata.shapes[key]]
    return one_key(shapes_key, spots or related, "sdata.shapes", "shapes_key")


def known_diameter(sdata: SpatialData, shapes_key: str) -> float | None:
    """Diameter of the tissue that a spot measures in µm, if the shapes carry it."""
    shapes = sdata.shapes[shapes_key]
    if DIAMETER not in shapes:
        return None
    diameters = shapes[DIAMETER].unique()
    if len(diameters) != 1:
        raise ValueError(f"Spots of {shapes_key!r} have several diameters: {sorted(diameters)} µm. Pass `tile_um=`.")
    return float(diameters[0])


def _is_fine(sdata: SpatialData, image_key: str, tile_um: float | None) -> bool:
    if tile_um is None or not has_scale(sdata, image_key):
        return True  # the scale is asked for later, with the way to state it
    return tile_px(tile_um, microns_per_pixel(sdata, image_key)) >= MIN_TILE_PX
