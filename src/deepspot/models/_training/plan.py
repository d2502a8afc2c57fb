"""From slides to what is learned from them: first a plan that checks everything, then the hours of embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot._features.feature_table import FeaturePlan, SlideFeatures, bags_of
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import Geometry, NeighborRule, SubspotsFrom, TileGeometry
from deepspot._spatial.neighbors import RINGS, check_array
from deepspot._spatial.transforms import pitch_px
from deepspot.encoders._parts import gives_parts
from deepspot.errors import InputError

from .slides import MeasuredSlide, as_mapping, measure, patients_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder


@dataclass(frozen=True)
class Keys:
    """Names of what is used of every slide; None where the slide has only one."""

    image: str | None = None
    shapes: str | None = None
    table: str | None = None
    layer: str | None = None
    coordinate_system: str | None = None


@dataclass(frozen=True)
class Tiling:
    """What is embedded of every slide.

    Attributes
    ----------
    encoder
        Embeds tiles.
    tile_um, radius_um
        As in :func:`deepspot.models.train`.
    array_box
        Neighbors from a box of the spot array with so many steps, unless there is a radius.
    max_neighbors
        At most so many neighbors in the radius, the nearest first.
    subspots
        What sub-spots are embedded from; None where they are not needed.
    """

    encoder: Encoder
    tile_um: float | None = None
    radius_um: float | None = None
    array_box: int | None = None
    max_neighbors: int = 8
    subspots: SubspotsFrom | None = "tiles"


@dataclass(frozen=True, eq=False)
class SlidePlan:
    """Slides that have been checked.

    Attributes
    ----------
    measured
        Counts and patients.
    geometry
        Tile and neighbor rule.
    features
        What has to be embedded, by the name of the slide, in the same order.
    """

    measured: list[MeasuredSlide]
    geometry: Geometry
    features: dict[str, FeaturePlan]

    def embed(
        self, *, device: str | None = None, batch_size: int | None = None, tiles_px: int | None = None
    ) -> dict[str, Bags]:
        """Embed what is not embedded yet, and return the bags of all spots of every slide, with tiles if asked for."""
        bags = {}
        for name, plan in self.features.items():
            view = plan.features.view
            key = plan.add(device=device, batch_size=batch_size)
            bags[name] = bags_of(view.sdata, key, view.shapes_key, self.geometry.neighbors)
            if tiles_px is not None:
                bags[name] = replace(bags[name], tiles=plan.features.read_spot_tiles(tiles_px))
        return bags


def plan_slides(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    patient_key: str | Mapping[str, str] | None,
    keys: Keys,
    tiling: Tiling,
) -> SlidePlan:
    """Check slides, their patients, counts and scale. Changes nothing."""
    slides = as_mapping(sdatas)
    if tiling.subspots == "tokens":
        gives_parts(tiling.encoder)
    if tiling.tile_um is not None:
        check_positive(tiling.tile_um, "tile_um")
    views, tables = {}, {}
    for name, sdata in slides.items():
        try:
            views[name] = SlideView.select(
                sdata, keys.image, keys.shapes, coordinate_system=keys.coordinate_system, tile_um=tiling.tile_um
            )
            tables[name] = views[name].measured_key(keys.table)
        except (KeyError, ValueError) as error:
            error.add_note(f"This happened on slide {name!r}.")
            raise
    patients = patients_of({name: slides[name].tables[table] for name, table in tables.items()}, patient_key)
    tile = TileGeometry(
        tile_um=_tile_um(views, tiling.tile_um),
        input_px=tiling.encoder.card.read_px,
        subspots=tiling.subspots or "tiles",
    )
    geometry = Geometry(tile=tile, neighbors=_neighbors(views, tiling))
    measured = [
        measure(name, view.sdata, view.shapes_key, tables[name], patient=patients[name], layer=keys.layer)
        for name, view in views.items()
    ]
    plans = {}
    for name, view in views.items():
        check_array(geometry.neighbors, view.array_positions)
        plans[name] = SlideFeatures(view, tiling.encoder, geometry.tile, tiling.subspots is not None).plan()
    return SlidePlan(measured, geometry, plans)


def _tile_um(views: Mapping[str, SlideView], tile_um: float | None) -> float:
    if tile_um is not None:
        return tile_um
    sides = {name: view.diameter_um for name, view in views.items()}
    side, *others = set(sides.values())
    if side is None or others:
        raise InputError(
            f"The slides do not agree on the size of a spot in µm: {sides}. Pass the side of the tiles that all shall "
            "be read with as `tile_um=`."
        )
    return float(side)


def _neighbors(views: Mapping[str, SlideView], tiling: Tiling) -> NeighborRule:
    cap = int(check_positive(tiling.max_neighbors, "max_neighbors"))
    if tiling.radius_um is not None:
        return NeighborRule(reach=check_positive(tiling.radius_um, "radius_um"), cap=cap)
    if tiling.array_box is not None:
        return NeighborRule(kind="box", reach=tiling.array_box, cap=(2 * tiling.array_box + 1) ** 2 - 1)
    pitches = []
    for name, view in views.items():
        if len(view.centers) < 2:
            raise InputError(f"Slide {name!r} has a single spot, so `radius_um=` has to say who its neighbors are.")
        pitches.append(pitch_px(view.centers) * view.mpp)
    return NeighborRule(reach=float(np.round(RINGS * np.median(pitches))), cap=cap)
