"""View of a slide: an image and the spots on it, and how they are selected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import DIAMETER, PARENT, PREDICTION, UNS, artifacts_name, key_in, nuclei_name, one_key
from deepspot._image.tiles import image_size, is_rgb, pyramid_levels, read_tiles
from deepspot._spatial.geometry import MIN_TILE_PX, Boxes, tile_px
from deepspot._spatial.transforms import (
    Placement,
    has_scale,
    has_slide_pixels,
    matching_centers,
    microns_per_pixel,
    n_inside,
    place_spots,
    place_without_image,
    polygons_px,
    share_coordinate_system,
    um_per_unit,
)
from deepspot.errors import InputError, MissingKeyError

from .measured import MeasuredCounts, measured_counts
from .tables import array_positions, find_measured_table, link_keys, regions_of, tables_of_kind

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData
    from xarray import DataArray


NO_IMAGE = ""
NO_SPOTS = (
    "The slide has no spots. Add them with `ds.pp.spots(sdata)`, which places spots of the size that the model was "
    "trained on."
)


@dataclass(frozen=True, eq=False)
class SlideView:
    """View of a slide: an image, the spots on it, and their tables, each looked up once."""

    sdata: SpatialData
    image_key: str  # `NO_IMAGE` for an object without images
    shapes_key: str
    coordinate_system: str | None = None  # needed if image and spots share several that disagree
    planned: Placement | None = None  # positions of spots that are not in the object yet

    @classmethod
    def select(
        cls,
        sdata: SpatialData,
        image_key: str | None = None,
        shapes_key: str | None = None,
        *,
        coordinate_system: str | None = None,
        tile_um: float | None = None,
        needs_image: bool = True,
    ) -> SlideView:
        """Select image and shapes if they are unambiguous; raise with the candidates otherwise.

        Without `needs_image`, the object may have no image, for features that were made elsewhere.
        """
        if not (needs_image or sdata.images or image_key):
            spots = [key for key in sdata.shapes if PARENT not in sdata.shapes[key]]
            names = spots if shapes_key is None else sdata.shapes
            return cls(sdata, NO_IMAGE, one_key(shapes_key, names, "sdata.shapes", "shapes_key", NO_SPOTS))
        return cls(sdata, *select_image_and_shapes(sdata, image_key, shapes_key, tile_um), coordinate_system)

    def of_planned(self, shapes_key: str, placement: Placement) -> SlideView:
        """Return the view of shapes that will be added to the same image."""
        return replace(self, shapes_key=shapes_key, planned=placement)

    @cached_property
    def placement(self) -> Placement:
        """Positions of the spots in the image."""
        if self.planned is None and not self.sdata.shapes[self.shapes_key].index.is_unique:
            raise InputError(
                f"The names of the shapes {self.shapes_key!r} (their index) are not unique, so tables cannot refer to "
                "them. Rename them: `shapes.index = range(len(shapes))`."
            )
        if self.image_key == NO_IMAGE:
            return self.planned or place_without_image(self.sdata, self.shapes_key)
        return self.planned or place_spots(self.sdata, self.image_key, self.shapes_key, self.coordinate_system)

    @property
    def centers(self) -> np.ndarray:
        """Centers (n, 2) of the spots as x and y in pixels of the full-resolution image."""
        return self.placement.centers

    @property
    def centers_um(self) -> np.ndarray:
        """Centers (n, 2) of the spots in µm."""
        return self.placement.centers * self.placement.mpp

    @property
    def mpp(self) -> float:
        """µm per pixel of the full-resolution image."""
        return self.placement.mpp

    @property
    def index(self) -> pd.Index:
        """Index of the shapes."""
        return self.placement.index

    @cached_property
    def pyramid(self) -> list[DataArray]:
        """Levels of the image, full resolution first."""
        if self.image_key == NO_IMAGE:
            raise MissingKeyError(
                "The object has no image. Read the slide with its image, or add features that were made elsewhere with "
                "`ds.pp.use_features`."
            )
        return pyramid_levels(self.sdata, self.image_key)

    @cached_property
    def array_positions(self) -> np.ndarray | None:
        """Array row and column (n, 2) of the spots, if known."""
        return array_positions(self.sdata, self.shapes_key)

    @property
    def diameter_um(self) -> float | None:
        """Diameter of the tissue that a spot measures in µm, if known."""
        return known_diameter(self.sdata, self.shapes_key)

    @property
    def width_um(self) -> float | None:
        """Width of a spot in µm: its diameter, or for polygons the side of a square of their median area, if known."""
        if self.diameter_um is not None or "radius" in self.sdata.shapes[self.shapes_key] or self.image_key == NO_IMAGE:
            return self.diameter_um
        import shapely

        area = shapely.area(polygons_px(self.sdata, self.image_key, self.shapes_key, self.coordinate_system))
        return float(np.sqrt(np.median(area))) * self.mpp

    @property
    def link_keys(self) -> tuple[str, str]:
        """Region and instance column for a new table of the spots."""
        return link_keys(self.sdata, self.shapes_key)

    def tables(self, *kinds: str) -> list[str]:
        """Return the names of the tables of some kinds that annotate the spots."""
        return tables_of_kind(self.sdata, self.shapes_key, *kinds)

    def measured_key(self, table_key: str | None = None) -> str:
        """Return the name of the table with the measured genes of the spots."""
        return find_measured_table(self.sdata, self.shapes_key, table_key)

    def measured(self, table_key: str, *, layer: str | None = None, name: str = "") -> MeasuredCounts:
        """Return the measured raw counts of the spots."""
        return measured_counts(self.sdata, self.shapes_key, table_key, layer=layer, name=name)


def known_diameter(sdata: SpatialData, shapes_key: str) -> float | None:
    """Return the diameter of the tissue that a spot measures in µm, if the shapes have this column."""
    shapes = sdata.shapes[shapes_key]
    if DIAMETER not in shapes:
        return None
    diameters = shapes[DIAMETER].unique()
    if len(diameters) != 1:
        found = ", ".join(f"{diameter:g}" for diameter in sorted(diameters))
        raise InputError(
            f"Spots of {shapes_key!r} have several diameters: {found} µm. Keep spots of one diameter in an element, or "
            "pass `tile_um=` to a function that has it."
        )
    return float(diameters[0])


@dataclass(frozen=True)
class Noun:
    """What the shapes of an element are called: one of them, and several."""

    one: str
    many: str

    def count(self, n: int) -> str:
        """Return a number with the noun."""
        return f"{n:,} {self.one if n == 1 else self.many}"


# By the resolution of a prediction, see `ds.tl.predict`.
NOUNS = {
    "spot": Noun("spot", "spots"),
    "subspot": Noun("sub-spot", "sub-spots"),
    "grid": Noun("grid point", "grid points"),
    "cell": Noun("cell", "cells"),
}


def noun_of(sdata: SpatialData, shapes_key: str) -> Noun:
    """Return what the shapes of an element are called: by their geometry, and the resolution of their prediction."""
    shapes = sdata.shapes[shapes_key]
    if "radius" not in shapes:
        if DIAMETER in shapes:  # squares of Visium HD
            return Noun("bin", "bins")
        return Noun("nucleus", "nuclei") if "nucle" in shapes_key.lower() else NOUNS["cell"]
    made = (sdata.tables[key].uns[UNS].get("resolution") for key in tables_of_kind(sdata, shapes_key, PREDICTION))
    finer = {resolution for resolution in made if resolution in NOUNS and resolution != "spot"}
    if len(finer) == 1:
        return NOUNS[finer.pop()]
    return Noun("part", "parts") if PARENT in shapes else NOUNS["spot"]


def noun_of_table(sdata: SpatialData, table_key: str) -> Noun:
    """Return what the rows of a table are called; spots, if it annotates several elements or none."""
    regions = regions_of(sdata, table_key)
    return noun_of(sdata, regions[0]) if len(regions) == 1 else NOUNS["spot"]


def select_image_and_shapes(
    sdata: SpatialData, image_key: str | None, shapes_key: str | None, tile_um: float | None = None
) -> tuple[str, str]:
    """Select image and shapes: by default the only shapes that fit, and the full-resolution image that shows them."""
    shapes_key = select_shapes(sdata, image_key, shapes_key)
    if image_key is not None:
        return key_in(image_key, sdata.images, "sdata.images"), shapes_key
    related = [key for key in sdata.images if share_coordinate_system(sdata, key, shapes_key)]
    colored = [key for key in related if is_rgb(sdata, key)]
    # Exclude the fluorescence images of Xenium, if its reader recorded that another image is the slide.
    fine = related = colored if any(has_slide_pixels(sdata, key) for key in colored) else related
    side = known_diameter(sdata, shapes_key) if tile_um is None else tile_um
    if side is not None:
        px = {key: tile_px(side, microns_per_pixel(sdata, key)) for key in related if has_scale(sdata, key)}
        # Exclude the downscaled copies of Visium. Images of unknown scale stay: they have their own error later.
        fine = [key for key in related if px.get(key, MIN_TILE_PX) >= MIN_TILE_PX]
        if related and not fine:
            raise InputError(
                f"No image shows the spots of {shapes_key!r} in enough pixels: a tile of {side:g} µm would have "
                f"{ {key: round(n) for key, n in px.items()} } px, at least {MIN_TILE_PX} are needed. Add the "
                "full-resolution image of the slide scanner, or pass a larger `tile_um=`."
            )
    full = _full_resolution(sdata, fine, shapes_key)
    return one_key(full, fine, "sdata.images", "image_key", _unrelated(sdata)), shapes_key


def _unrelated(sdata: SpatialData) -> str:
    """Return what to do without an image that shows any shapes."""
    if sdata.images:
        return (
            f"No image of {list(sdata.images)} shares a coordinate system with suitable shapes of {list(sdata.shapes)}."
            " Check that both are of one slide."
        )
    return (
        "The object has no image. Read the slide with `ds.io`; a store of `ds.tl.predict(out=…)` has none: add that of "
        "the slide, `sdata[key] = slide[key]`."
    )


def spot_shapes(sdata: SpatialData) -> list[str]:
    """Return the names of shapes that can be spots: circles that are no sub-spots or grids, which have a parent."""
    return [key for key, shapes in sdata.shapes.items() if "radius" in shapes and PARENT not in shapes]


def select_shapes(sdata: SpatialData, image_key: str | None, shapes_key: str | None) -> str:
    """Select the shapes that share a coordinate system with an image (by default with any)."""
    if not sdata.shapes:
        raise MissingKeyError(NO_SPOTS)
    if shapes_key is not None:
        return key_in(shapes_key, sdata.shapes, "sdata.shapes")
    images = list(sdata.images) if image_key is None or image_key not in sdata.images else [image_key]
    related = [key for key in sdata.shapes if any(share_coordinate_system(sdata, image, key) for image in images)]
    # Spots take precedence over polygons, which are cells, bins or regions. Nuclei and artifacts are none.
    nuclei = {name(key) for key in sdata.images for name in (nuclei_name, artifacts_name)}
    others = [key for key in related if key not in nuclei]
    if related and not others:
        raise MissingKeyError(
            f"{NO_SPOTS} There are only nuclei or regions, {related}: pass them as `shapes_key` if you mean them."
        )
    whole = [key for key in others if PARENT not in sdata.shapes[key]]
    spots = [key for key in whole if "radius" in sdata.shapes[key]]
    return one_key(None, spots or whole or others, "sdata.shapes", "shapes_key", _unrelated(sdata))


def _full_resolution(sdata: SpatialData, images: list[str], shapes_key: str) -> str | None:
    """Return the image of which the others are downscaled copies, or None if there is no such image.

    It must be finer than all others, RGB in uint8 (not fluorescence), show every spot that any image shows (not an
    enlarged part of the tissue), and have the colors of the others at the spots. Images without a scale cannot be
    compared, and images that disagree on the µm of their coordinate system are of different slides.
    """
    if len(images) < 2 or not all(has_scale(sdata, key) for key in images):
        return None
    scale = {key: microns_per_pixel(sdata, key) for key in images}
    finest, second, *_ = sorted(images, key=scale.__getitem__)
    # The scale of a downscaled copy is inexact, as its size is in whole pixels: within 5 % it is the same.
    if scale[second] < 1.05 * scale[finest] or not is_rgb(sdata, finest):
        return None
    units = [um_per_unit(sdata, key, shapes_key) for key in images]
    if max(units) > 1.05 * min(units):
        return None
    shown = {key: n_inside(sdata, key, shapes_key, image_size(sdata, key)) for key in images}
    if shown[finest] < max(shown.values()):
        return None
    # Pixels of two slides may have the same coordinate system, such as "global".
    others = [key for key in images if key != finest and is_rgb(sdata, key)]
    return finest if all(_alike(sdata, finest, key, shapes_key) for key in others) else None


SAMPLE, SAMPLE_PX, SIMILAR, NOISE = 64, 8, 0.5, 4
"""Images are compared at 64 spots, in squares of 8 px of the coarser one. Copies differ by less than half of the
standard deviation of the colors, or by less than 4 gray levels."""


def _alike(sdata: SpatialData, first: str, second: str, shapes_key: str) -> bool:
    """Return whether two images have the same colors at the spots that both show, as copies of one image do."""
    keys = [first, second]
    places = matching_centers(sdata, keys, shapes_key)
    scales = [microns_per_pixel(sdata, key) for key in keys]
    sizes = [image_size(sdata, key) for key in keys]
    inside = [((xy >= 0) & (xy <= size[::-1])).all(axis=1) for xy, size in zip(places, sizes, strict=True)]
    both = np.flatnonzero(inside[0] & inside[1])
    if not len(both):
        return True
    some = both[np.linspace(0, len(both) - 1, min(len(both), SAMPLE)).astype(int)]
    colors = []
    for key, xy, scale in zip(keys, places, scales, strict=True):
        side = max(1, round(SAMPLE_PX * max(scales) / scale))
        corners = np.round(xy[some][:, ::-1] - side / 2).astype(np.int64)
        level = pyramid_levels(sdata, key)[0]
        tiles = read_tiles(level, Boxes(corners, side, 0), batch_size=SAMPLE, in_order=True)
        colors.append([tile.mean(axis=(0, 1)) for _, batch in tiles for tile in batch])
    a, b = np.array(colors)
    spread = max(a.std(axis=0).max(), b.std(axis=0).max())
    return bool(np.abs(a - b).mean() < max(NOISE, SIMILAR * spread))
