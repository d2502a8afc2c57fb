"""Check the slides of a training set before anything is embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import DIAMETER
from deepspot._features.bags import Bags
from deepspot._features.feature_table import FeaturePlan, SlideFeatures, bags_of
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import Geometry, NeighborRule, TileGeometry
from deepspot._spatial.neighbors import RINGS, array_layout, check_array
from deepspot._spatial.transforms import pitch_px
from deepspot.encoders._parts import require_parts
from deepspot.errors import InputError

from .config import SlideKeys, TileConfig
from .copies import thumbnail
from .slides import MeasuredSlide, as_mapping, measure, patients_of

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder


@dataclass(frozen=True, eq=False)
class SlidePlan:
    """Checked slides: their counts, their common geometry, and by slide name the features to embed."""

    measured: list[MeasuredSlide]
    geometry: Geometry
    features: dict[str, FeaturePlan]

    def embed(
        self, *, device: str | None = None, batch_size: int | None = None, tiles_px: int | None = None
    ) -> dict[str, Bags]:
        """Add missing feature tables, and return the bags of all spots by slide name, with tiles if `tiles_px`."""
        bags = {}
        for name, plan in self.features.items():
            view = plan.features.view
            key = plan.add(device=device, batch_size=batch_size)
            bags[name] = bags_of(view.sdata, key, view.shapes_key, self.geometry.neighbors)
            if tiles_px is not None:
                bags[name] = replace(bags[name], tiles=plan.features.read_spot_tiles(tiles_px))
        return bags


def plan_slides(
    slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    patient_key: str | Mapping[str, str] | pd.Series | None,
    encoder: Encoder,
    keys: SlideKeys,
    tiles: TileConfig,
) -> SlidePlan:
    """Check slides, patients, counts and scale. Changes nothing."""
    named = as_mapping(slides)
    if tiles.subspots == "tokens":
        require_parts(encoder)
    views, tables = {}, {}
    for name, sdata in named.items():
        try:
            views[name] = SlideView.select(
                sdata,
                keys.image_key,
                keys.shapes_key,
                coordinate_system=keys.coordinate_system,
                tile_um=tiles.tile_um,
            )
            tables[name] = views[name].measured_key(keys.table_key)
        except (KeyError, ValueError) as error:
            error.add_note(f"This happened on slide {name!r}.")
            raise
    patients = patients_of({name: named[name].tables[table] for name, table in tables.items()}, patient_key)
    tile = TileGeometry(
        tile_um=_tile_um(views, tiles.tile_um), input_px=encoder.card.read_px, subspots=tiles.subspots or "tiles"
    )
    geometry = Geometry(tile=tile, neighbors=_neighbor_rule(views, tiles))
    measured = [
        measure(name, view.sdata, view.shapes_key, tables[name], patient=patients[name], layer=keys.layer)
        for name, view in views.items()
    ]
    if len(views) > 1:
        measured = [
            replace(slide, thumbnail=thumbnail(view)) for slide, view in zip(measured, views.values(), strict=True)
        ]
    plans = {}
    for name, view in views.items():
        check_array(geometry.neighbors, view.array_positions)
        plans[name] = SlideFeatures(view, encoder, tile, bool(tiles.subspots)).plan()
    return SlidePlan(measured, geometry, plans)


def _tile_um(views: Mapping[str, SlideView], tile_um: float | None) -> float:
    """Return the side of a tile: the one given, else the spot diameter that all slides share."""
    if tile_um is not None:
        return tile_um
    sides = {name: view.diameter_um for name, view in views.items()}
    remedy = "Set the side of the tiles of all slides with `tiles={'tile_um': ...}`."
    known = [side for side in sides.values() if side is not None]
    if len(known) < len(sides):
        unknown = [name for name, side in sides.items() if side is None]
        raise InputError(f"The size of a spot is unknown on slides {unknown}: no column {DIAMETER!r}. {remedy}")
    if len(set(known)) > 1:
        raise InputError(f"The spots of the slides differ in their diameter in µm: {sides}. {remedy}")
    return float(known[0])


def _neighbor_rule(views: Mapping[str, SlideView], tiles: TileConfig) -> NeighborRule:
    pitches = {name: pitch_px(view.centers) * view.mpp for name, view in views.items() if len(view.centers) > 1}
    array: dict[str, Any] = {}
    if pitches:  # of mixed pitches, that of a slide: there may be no spots at their median
        middle = float(np.median(list(pitches.values())))
        typical = min(pitches, key=lambda name: abs(pitches[name] - middle))
        array = {"pitch_um": round(pitches[typical], 1), "layout": array_layout(views[typical].centers_um)}
    if tiles.radius_um is not None:
        return NeighborRule(reach=tiles.radius_um, cap=tiles.max_neighbors, **array)
    if (reach := tiles.array_box) is not None:
        return NeighborRule(kind="box", reach=reach, cap=(2 * reach + 1) ** 2 - 1, **array)
    if single := sorted(views.keys() - pitches.keys()):
        raise InputError(f"Slide {single[0]!r} has a single spot. Set the radius with `tiles={{'radius_um': ...}}`.")
    return NeighborRule(reach=float(np.round(RINGS * middle)), cap=tiles.max_neighbors, **array)
