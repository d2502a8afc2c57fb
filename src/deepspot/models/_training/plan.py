"""Check the slides of a training set before anything is embedded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import DIAMETER
from deepspot._features.bags import Bags
from deepspot._features.feature_table import FeaturePlan, SlideFeatures, bags_of
from deepspot._features.nuclei import check_nuclei
from deepspot._features.stored import StoredEncoder, StoredFeatures, read_stored, same_tile
from deepspot._sdata.view import NO_IMAGE, SlideView
from deepspot._spatial.geometry import STAINS, Geometry, NeighborRule, TileGeometry
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
    encoder: Encoder
    geometry: Geometry
    features: dict[str, FeaturePlan]

    def embed(
        self, *, device: str | None = None, batch_size: int | None = None, tiles_px: int | None = None
    ) -> dict[str, Bags]:
        """Add missing feature tables, and return the bags of all spots by slide name, with tiles if `tiles_px`."""
        bags = {}
        for name, plan in self.features.items():
            view = plan.features.view
            # Planned again: another plan for the same slides may have added the table since.
            key = plan.features.plan().add(device=device, batch_size=batch_size)
            bags[name] = bags_of(view.sdata, key, view.shapes_key, self.geometry.neighbors)
            if not plan.features.subspots:
                bags[name] = replace(bags[name], subspots=None, present=None)
            if tiles_px is not None:
                bags[name] = replace(bags[name], tiles=plan.features.read_spot_tiles(tiles_px))
        return bags


def plan_slides(
    slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    patient_key: str | Mapping[str, str] | pd.Series | None,
    encoder: str | Encoder | None,
    keys: SlideKeys,
    tiles: TileConfig,
) -> SlidePlan:
    """Check slides, patients, counts and scale. Changes nothing."""
    from deepspot import encoders

    named = as_mapping(slides)
    if keys.features_key is not None and encoder is not None:
        raise InputError("Pass `encoder` or `keys={'features_key': ...}`, not both: the table names its encoder.")
    ready = encoders.get(encoder) if keys.features_key is None else None
    if ready is not None and tiles.subspots == "tokens":
        require_parts(ready)
    views, tables, stored = {}, {}, {}
    for name, sdata in named.items():
        with _on_slide(name):
            views[name] = SlideView.select(
                sdata,
                keys.image_key,
                keys.shapes_key,
                coordinate_system=keys.coordinate_system,
                tile_um=tiles.tile_um,
                needs_image=keys.features_key is None,
            )
            tables[name] = views[name].measured_key(keys.table_key)
            if keys.features_key is not None:
                stored[name] = read_stored(views[name], keys.features_key)
    patients = patients_of({name: named[name].tables[table] for name, table in tables.items()}, patient_key)
    if ready is None:
        ready, tile = _common(stored, tiles)
    else:
        tile = TileGeometry(
            tile_um=_tile_um(views, tiles.tile_um),
            input_px=ready.card.read_px,
            subspots=tiles.subspots or "tiles",
            nuclei_key=keys.nuclei_key if tiles.subspots == "nuclei" else None,
            stain=None if tiles.stain is None else STAINS[tiles.stain],
        )
        if tiles.subspots == "nuclei":
            for name, view in views.items():
                with _on_slide(name):
                    check_nuclei(view, tile)
    geometry = Geometry(tile=tile, neighbors=_neighbor_rule(views, tiles))
    measured = [
        measure(name, view.sdata, view.shapes_key, tables[name], patient=patients[name], layer=keys.layer)
        for name, view in views.items()
    ]
    if len(views) > 1:
        measured = [
            slide if view.image_key == NO_IMAGE else replace(slide, thumbnail=thumbnail(view))
            for slide, view in zip(measured, views.values(), strict=True)
        ]
    plans = {}
    for name, view in views.items():
        check_array(geometry.neighbors, view.array_positions)
        key = stored[name].key if stored else None
        with _on_slide(name):
            plans[name] = SlideFeatures(view, ready, tile, bool(tiles.subspots), stored=key).plan()
    return SlidePlan(measured, ready, geometry, plans)


@contextmanager
def _on_slide(name: str) -> Iterator[None]:
    """Add the name of the slide to errors."""
    try:
        yield
    except (KeyError, ValueError) as error:
        error.add_note(f"This happened on slide {name!r}.")
        raise


def _common(stored: Mapping[str, StoredFeatures], tiles: TileConfig) -> tuple[StoredEncoder, TileGeometry]:
    """Return the encoder and the tiles that the feature tables of all slides have in common."""
    tables = list(stored.values())
    first, key = tables[0], tables[0].key
    made_by = {name: (table.encoder.card.name, table.encoder.card.dim) for name, table in stored.items()}
    if len(set(made_by.values())) > 1 or len({table.encoder.fingerprint for table in tables}) > 1:
        raise InputError(f"The feature tables {key!r} of the slides are of different encoders: {made_by}.")
    sides = {name: table.tile.tile_um for name, table in stored.items()}
    tile_um = float(np.median(list(sides.values()))) if tiles.tile_um is None else tiles.tile_um
    if not all(same_tile(side, tile_um) for side in sides.values()):
        raise InputError(
            f"The feature tables {key!r} have tiles of {sides} µm, which differ by more than 5 %, or from "
            f"`tile_um` = {tile_um:g}. Use features of tiles of one side."
        )
    if tiles.subspots and not all(table.subspots for table in tables):
        raise InputError(
            f"The feature table {key!r} has no sub-spots. Pass `tiles={{'subspots': False}}` to "
            "`ds.models.cross_validate`, or `network={'context': ('spot', 'neighbors')}` to `ds.models.train`."
        )
    if tiles.subspots and tiles.subspots != first.tile.subspots:
        raise InputError(
            f"The sub-spots of feature table {key!r} are from {first.tile.subspots!r}, not {tiles.subspots!r}."
        )
    wanted = first.tile.stain if tiles.stain is None else STAINS[tiles.stain]
    if any(table.tile.stain != wanted for table in tables):
        raise InputError(
            f"The feature tables {key!r} of the slides differ in the normalization of their stains, or from `stain` = "
            f"{tiles.stain!r}. Make them again with `ds.pp.embed(sdata, stain=...)`."
        )
    return first.encoder, first.tile.model_copy(update={"tile_um": tile_um})


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
