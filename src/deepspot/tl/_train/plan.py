"""From slides to what is learnt from them: first a plan that checks everything, then the hours of embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot._features.feature_table import Plan, Request, add_features, bags_of, plan_features, read_spot_tiles
from deepspot._sdata.select import known_diameter, select_image_and_shapes
from deepspot._sdata.tables import array_positions, find_measured_table
from deepspot._spatial.geometry import Geometry, NeighborRule, SubspotsFrom, TileGeometry
from deepspot._spatial.neighbors import RINGS, check_array
from deepspot._spatial.transforms import pitch_px, place_spots
from deepspot.encoders._parts import gives_parts

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
class View:
    """How slides are looked at.

    Attributes
    ----------
    encoder
        Embeds tiles.
    tile_um, radius_um
        As in :func:`deepspot.tl.train`.
    array_box
        Neighbours from a box of the spot array with so many steps, unless there is a radius.
    max_neighbors
        At most so many neighbours in the radius, the nearest first.
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
    slides, shapes
        The objects, and the name of their spots.
    measured
        Counts and patients, in the same order.
    geometry
        Tile and neighbour rule.
    features
        What has to be embedded.
    """

    slides: dict[str, SpatialData]
    shapes: dict[str, str]
    measured: list[MeasuredSlide]
    geometry: Geometry
    features: dict[str, Plan]

    def embed(
        self, *, device: str | None = None, batch_size: int | None = None, tiles_px: int | None = None
    ) -> dict[str, Bags]:
        """Embed what is not embedded yet, and return the bags of all spots of every slide, with tiles if asked for."""
        bags = {}
        for name, plan in self.features.items():
            key = add_features(plan, device=device, batch_size=batch_size)
            bags[name] = bags_of(self.slides[name], key, self.shapes[name], self.geometry.neighbors)
            if tiles_px is not None:
                bags[name] = replace(bags[name], tiles=read_spot_tiles(plan, tiles_px))
        return bags


def plan_slides(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    patient_key: str | Mapping[str, str] | None,
    keys: Keys,
    view: View,
) -> SlidePlan:
    """Check slides, their patients, counts and scale. Changes nothing."""
    slides = as_mapping(sdatas)
    if view.subspots == "tokens":
        gives_parts(view.encoder)
    if view.tile_um is not None:
        check_positive(view.tile_um, "tile_um")
    found = {name: _found(name, sdata, keys, view.tile_um) for name, sdata in slides.items()}
    patients = patients_of({name: sdata.tables[found[name].table] for name, sdata in slides.items()}, patient_key)
    geometry = Geometry(
        tile=TileGeometry(
            tile_um=_tile(slides, found, view.tile_um),
            input_px=view.encoder.card.read_px,
            subspots=view.subspots or "tiles",
        ),
        neighbors=_neighbors(slides, found, view),
    )
    measured = [
        measure(name, sdata, found[name].shapes, found[name].table, patient=patients[name], layer=keys.layer)
        for name, sdata in slides.items()
    ]
    plans = {}
    for name, sdata in slides.items():
        check_array(geometry.neighbors, array_positions(sdata, found[name].shapes))
        request = Request(
            view.encoder, geometry.tile, found[name].image, found[name].shapes, view.subspots is not None,
            keys.coordinate_system,
        )  # fmt: skip
        plans[name] = plan_features(sdata, request)
    return SlidePlan(slides, {name: found[name].shapes for name in slides}, measured, geometry, plans)


@dataclass(frozen=True)
class _Found:
    image: str
    shapes: str
    table: str
    coordinate_system: str | None


def _found(name: str, sdata: SpatialData, keys: Keys, tile_um: float | None) -> _Found:
    try:
        image, shapes = select_image_and_shapes(sdata, keys.image, keys.shapes, tile_um)
        return _Found(image, shapes, find_measured_table(sdata, shapes, keys.table), keys.coordinate_system)
    except (KeyError, ValueError) as error:
        error.add_note(f"This happened on slide {name!r}.")
        raise


def _tile(slides: Mapping[str, SpatialData], keys: Mapping[str, _Found], tile_um: float | None) -> float:
    if tile_um is not None:
        return tile_um
    sides = {name: known_diameter(sdata, keys[name].shapes) for name, sdata in slides.items()}
    if None in sides.values() or len(set(sides.values())) > 1:
        raise ValueError(
            f"The slides do not agree on the size of a spot in µm: {sides}. Pass the side of the tiles that all shall "
            "be read with as `tile_um=`."
        )
    return float(next(iter(sides.values())))  # type: ignore[arg-type]


def _neighbors(slides: Mapping[str, SpatialData], keys: Mapping[str, _Found], view: View) -> NeighborRule:
    cap = int(check_positive(view.max_neighbors, "max_neighbors"))
    if view.radius_um is not None:
        return NeighborRule(reach=check_positive(view.radius_um, "radius_um"), cap=cap)
    if view.array_box is not None:
        return NeighborRule(kind="box", reach=view.array_box, cap=(2 * view.array_box + 1) ** 2 - 1)
    pitches = []
    for name, sdata in slides.items():
        placement = place_spots(sdata, keys[name].image, keys[name].shapes, keys[name].coordinate_system)
        if len(placement.centers) < 2:
            raise ValueError(f"Slide {name!r} has a single spot, so `radius_um=` has to say who its neighbours are.")
        pitches.append(pitch_px(placement.centers) * placement.mpp)
    return NeighborRule(reach=float(np.round(RINGS * np.median(pitches))), cap=cap)
