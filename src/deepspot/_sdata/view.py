"""A slide as the tools see it: an image and the spots on it, looked up once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from deepspot._image.tiles import pyramid_levels
from deepspot._spatial.transforms import Placement, place_spots

from .measured import MeasuredCounts, measured_counts
from .select import known_diameter, select_image_and_shapes
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
