"""View of a slide: an image and the spots on it, looked up once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import DIAMETER, PARENT, key_in, one_key
from deepspot._image.tiles import image_size, is_rgb, pyramid_levels
from deepspot._spatial.geometry import MIN_TILE_PX, tile_px
from deepspot._spatial.transforms import (
    Placement,
    has_scale,
    microns_per_pixel,
    n_inside,
    place_spots,
    share_coordinate_system,
)
from deepspot.errors import InputError, MissingKeyError

from .measured import MeasuredCounts, measured_counts
from .tables import array_positions, find_measured_table, link_keys, tables_of_kind

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData
    from xarray import DataArray


@dataclass(frozen=True, eq=False)
class SlideView:
    """An image, the spots on it, and what is known of both.

    Attributes
    ----------
    sdata
        The object.
    image_key, shapes_key
        Image and spots.
    coordinate_system
        Which one to relate them with, should they share several that disagree.
    planned
        Where spots lie that are not in the object yet.
    """

    sdata: SpatialData
    image_key: str
    shapes_key: str
    coordinate_system: str | None = None
    planned: Placement | None = None

    @classmethod
    def select(
        cls,
        sdata: SpatialData,
        image_key: str | None = None,
        shapes_key: str | None = None,
        *,
        coordinate_system: str | None = None,
        tile_um: float | None = None,
    ) -> SlideView:
        """Select image and shapes where the object leaves no doubt; raise with the candidates where it does."""
        return cls(sdata, *select_image_and_shapes(sdata, image_key, shapes_key, tile_um), coordinate_system)

    def of_planned(self, shapes_key: str, placement: Placement) -> SlideView:
        """View of shapes on the same image that are going to be added."""
        return replace(self, shapes_key=shapes_key, planned=placement)

    @cached_property
    def placement(self) -> Placement:
        """Where the spots lie in the image."""
        return self.planned or place_spots(self.sdata, self.image_key, self.shapes_key, self.coordinate_system)

    @property
    def centers(self) -> np.ndarray:
        """Centers (n, 2) of the spots as x and y in pixels of the full-resolution image."""
        return self.placement.centers

    @property
    def centers_um(self) -> np.ndarray:
        """The same in µm."""
        return self.placement.centers * self.placement.mpp

    @property
    def mpp(self) -> float:
        """Size of a pixel in µm."""
        return self.placement.mpp

    @property
    def index(self) -> pd.Index:
        """Index of the shapes."""
        return self.placement.index

    @cached_property
    def pyramid(self) -> list[DataArray]:
        """Resolution levels of the image, full resolution first."""
        return pyramid_levels(self.sdata, self.image_key)

    @cached_property
    def array_positions(self) -> np.ndarray | None:
        """Row and column (n, 2) of the spots in the array of their technology, if known."""
        return array_positions(self.sdata, self.shapes_key)

    @property
    def diameter_um(self) -> float | None:
        """Diameter of the tissue that a spot measures in µm, if known."""
        return known_diameter(self.sdata, self.shapes_key)

    @property
    def link_keys(self) -> tuple[str, str]:
        """Region and instance column for a new table of the spots."""
        return link_keys(self.sdata, self.shapes_key)

    def tables(self, *kinds: str) -> list[str]:
        """Names of the tables of this package that annotate the spots and hold this."""
        return tables_of_kind(self.sdata, self.shapes_key, *kinds)

    def measured_key(self, table_key: str | None = None) -> str:
        """Name of the table with the measured genes of the spots."""
        return find_measured_table(self.sdata, self.shapes_key, table_key)

    def measured(self, table_key: str, *, layer: str | None = None, name: str = "slide") -> MeasuredCounts:
        """Measured raw counts of the spots."""
        return measured_counts(self.sdata, self.shapes_key, table_key, layer=layer, name=name)


# Small copies have whole pixels, so that their scale is not exact; images nearer than this have the same scale.
FINER = 1.05


def select_image_and_shapes(
    sdata: SpatialData, image_key: str | None, shapes_key: str | None, tile_um: float | None = None
) -> tuple[str, str]:
    """Names of the image and the shapes to work on.

    Without `image_key` the image is the one that is related to the shapes and has enough pixels in a tile. Of several
    the full-resolution image is taken, if it is clear which one that is: see `_full_resolution`.
    """
    shapes_key = select_shapes(sdata, image_key, shapes_key)
    if image_key is not None:
        return key_in(image_key, sdata.images, "sdata.images"), shapes_key
    related = [key for key in sdata.images if share_coordinate_system(sdata, key, shapes_key)]
    # The small copies that come with Visium are no candidates beside an image that shows the tissue.
    side = known_diameter(sdata, shapes_key) if tile_um is None else tile_um
    fine = [key for key in related if _is_fine(sdata, key, side)]
    if related and not fine:
        px = {key: round(float(side or 0) / microns_per_pixel(sdata, key)) for key in related}
        raise InputError(
            f"No image shows the spots of {shapes_key!r} in enough pixels: a tile of {side:g} µm would have {px} px, "
            f"at least {MIN_TILE_PX} are needed. Add the full-resolution image that the slide scanner wrote."
        )
    full = _full_resolution(sdata, fine, shapes_key)
    return one_key(full, fine, "sdata.images", "image_key"), shapes_key


def select_shapes(sdata: SpatialData, image_key: str | None, shapes_key: str | None) -> str:
    """Name of the shapes that can be related to an image (None: to any)."""
    if shapes_key is not None and shapes_key in sdata.shapes:
        return shapes_key
    if not sdata.shapes:
        raise MissingKeyError(
            "The slide has no spots. Add them with `ds.pp.spots(sdata)`, which places spots of the size that the model "
            "was trained on."
        )
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
        raise InputError(f"Spots of {shapes_key!r} have several diameters: {sorted(diameters)} µm. Pass `tile_um=`.")
    return float(diameters[0])


def _is_fine(sdata: SpatialData, image_key: str, tile_um: float | None) -> bool:
    if tile_um is None or not has_scale(sdata, image_key):
        return True  # the scale is asked for later, with the way to state it
    return tile_px(tile_um, microns_per_pixel(sdata, image_key)) >= MIN_TILE_PX


def _full_resolution(sdata: SpatialData, images: Sequence[str], shapes_key: str) -> str | None:
    """Name of the image that others are coarser versions of; None where there is no such image.

    It has to be finer than every other one, to be RGB in uint8 (an image of fluorescence beside an H&E image is not
    meant), and to show every spot that any of them shows (an enlarged part of the tissue is not the full image).
    Nothing is known of images without a scale, so that these stay ambiguous.
    """
    if len(images) < 2 or not all(has_scale(sdata, key) for key in images):
        return None
    scale = {key: microns_per_pixel(sdata, key) for key in images}
    finest, second, *_ = sorted(images, key=lambda key: scale[key])
    if scale[second] < FINER * scale[finest] or not is_rgb(sdata, finest):
        return None
    shown = {key: n_inside(sdata, key, shapes_key, image_size(sdata, key)) for key in images}
    return finest if shown[finest] == max(shown.values()) else None
