"""The making of a feature table: first a plan that checks everything, then the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.keys import FEATURES, UNS, features_name
from deepspot._core.logging import logger, track
from deepspot._core.settings import settings
from deepspot._core.validate import check_positive, key_in
from deepspot._image import tiles as _tiles
from deepspot._image.tiles import image_fingerprint, level_sizes, pyramid_levels, read_tiles
from deepspot._sdata.tables import array_positions, link_keys, rows_of, tables_annotating
from deepspot._sdata.write import add_table, check_new_key, make_table
from deepspot._spatial.boxes import Boxes, make_boxes
from deepspot._spatial.geometry import SubspotsFrom, TileGeometry
from deepspot._spatial.neighbors import find_neighbors
from deepspot._spatial.transforms import Placement, place_spots
from deepspot.encoders._parts import VERSION, gives_parts

from .bags import Bags

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData
    from xarray import DataArray

    from deepspot._spatial.geometry import NeighborRule
    from deepspot.encoders import Encoder
    from deepspot.encoders._encode import Tiling


# Spots read at once: their tiles and sub-spots are all the pixels that are held beside the image blocks.
SPOTS = 64


@dataclass(frozen=True, eq=False)
class Request:
    """What a feature table shall hold.

    Attributes
    ----------
    encoder, geometry
        What embeds, and what a tile shows.
    image_key, shapes_key
        Image and spots.
    subspots
        Whether to embed the sub-spots.
    coordinate_system
        Which one to relate image and spots with, if they share several that disagree.
    only_central
        Of the sub-spots embed only the one in the middle: the grid of its tile must be odd.
    """

    encoder: Encoder
    geometry: TileGeometry
    image_key: str
    shapes_key: str
    subspots: bool = True
    coordinate_system: str | None = None
    only_central: bool = False

    def __post_init__(self) -> None:
        if self.tokens:
            gives_parts(self.encoder)

    @property
    def n_subspots(self) -> int:
        """How many sub-spots of a spot are embedded."""
        return 0 if not self.subspots else 1 if self.only_central else self.geometry.grid**2

    @property
    def tokens(self) -> bool:
        """Whether sub-spots are made of what the encoder sees in the tile of their spot."""
        return self.subspots and self.geometry.subspots == "tokens"


@dataclass(frozen=True, eq=False)
class Site:
    """Where the tiles of a request lie.

    Attributes
    ----------
    request
        What the features shall hold.
    placement, level, boxes
        Where the spots lie, the image level to read, and the tiles in it.
    fingerprint
        Content hash of all that the features depend on.
    """

    request: Request
    placement: Placement
    level: DataArray
    boxes: Boxes
    fingerprint: str

    def embed(
        self, rows: np.ndarray, *, device: str | None = None, batch_size: int | None = None, progress: str | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Embed some of the spots: (b, d) in float32, and their sub-spots (b, s, d) in float16, if asked for."""
        from deepspot.encoders._encode import gather

        embedded = self.stream(rows, in_order=False, device=device, batch_size=batch_size)
        if progress is not None:
            embedded = track(embedded, progress, total=-(-len(rows) // SPOTS), unit="batch")
        return gather(embedded, len(rows), self.request.encoder.card.dim, self._tiling(batch_size))

    def stream(
        self, rows: np.ndarray, *, in_order: bool = True, device: str | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Embed some of the spots as :meth:`embed` does, a few at a time: where in `rows` they are, and the two.

        They come `in_order`, and those that follow each other should lie close together; else as the image is stored.
        """
        from deepspot.encoders._encode import stream_spots

        batches = read_tiles(self.level, self.boxes[rows], SPOTS, in_order=in_order)
        return stream_spots(batches, self.request.encoder.to(device), self._tiling(batch_size))

    def _tiling(self, batch_size: int | None) -> Tiling:
        from deepspot.encoders._encode import Tiling

        request = self.request
        return Tiling(
            request.geometry.grid, request.subspots,
            settings.batch_size if batch_size is None else int(check_positive(batch_size, "batch_size")),
            request.only_central, request.tokens,
        )  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        """What a table says of the features, in `uns`."""
        request = self.request
        return {
            "kind": FEATURES,
            "fingerprint": self.fingerprint,
            "image_key": request.image_key,
            "mpp": self.placement.mpp,
            "geometry": request.geometry.model_dump(),
            "subspots": {0: "none", request.geometry.grid**2: "all"}.get(request.n_subspots, "central"),
            "encoder": request.encoder.card.model_dump_json(),
            "encoder_fingerprint": request.encoder.fingerprint,
        }


def survey(sdata: SpatialData, request: Request, placement: Placement | None = None) -> Site:
    """Find out where the tiles of a request lie. Shapes that are added later come with their `placement`."""
    encoder, geometry = request.encoder, request.geometry
    if placement is None:
        placement = place_spots(sdata, request.image_key, request.shapes_key, request.coordinate_system)
    pyramid = pyramid_levels(sdata, request.image_key)
    name = f"image {request.image_key!r}"
    boxes = make_boxes(placement.centers, placement.mpp, level_sizes(pyramid), geometry, name=name)
    level = pyramid[boxes.level]
    parts: Any = "central" if request.n_subspots == 1 and request.only_central else request.subspots
    if request.tokens:
        parts = [parts, VERSION]
    fingerprint = digest(
        image_fingerprint(level, boxes), placement.centers.round(3), placement.mpp, geometry.model_dump(),
        [boxes.level, boxes.side], encoder.fingerprint, parts,
    )  # fmt: skip
    return Site(request, placement, level, boxes, fingerprint)


@dataclass(frozen=True, eq=False)
class Plan:
    """A request that has been checked against an object.

    Attributes
    ----------
    sdata, site
        The object, and where the tiles lie.
    key
        Name of the table.
    found
        Whether the object holds it already.
    overwrite
        Whether a table of that name may be replaced.
    """

    sdata: SpatialData
    site: Site
    key: str
    found: bool
    overwrite: bool


def plan_features(
    sdata: SpatialData,
    request: Request,
    *,
    key_added: str | None = None,
    overwrite: bool = False,
    placement: Placement | None = None,
) -> Plan:
    """Check a request, and find out whether its table is there already. Changes nothing."""
    encoder, shapes_key = request.encoder, request.shapes_key
    _check_size(len(sdata.shapes[shapes_key]) if placement is None else len(placement.centers), request)
    site = survey(sdata, request, placement)
    same = _find(sdata, shapes_key, site.fingerprint, site.placement.index)
    found = same is not None and not overwrite and key_added in (None, same)
    key = str(same) if found else key_added or features_name(encoder.card.name, shapes_key)
    if not found and key_added is None and key in sdata.tables and not overwrite:
        key = f"{key}_{site.fingerprint[:8]}"
    if not found:
        check_new_key(sdata, key, overwrite=overwrite)
    return Plan(sdata, site, key, found, overwrite)


def add_features(plan: Plan, *, device: str | None = None, batch_size: int | None = None) -> str:
    """Carry out a plan, unless the table is there already. Return its name."""
    sdata, site, shapes_key = plan.sdata, plan.site, plan.site.request.shapes_key
    if plan.found:
        logger.info("Using sdata.tables[%r]: image, spots, geometry and encoder are the same.", plan.key)
        return plan.key
    everything = np.arange(len(site.placement.centers))
    spot, parts = site.embed(everything, device=device, batch_size=batch_size, progress=f"Embedding {shapes_key}")
    obsm: dict[str, Any] = {"spatial": site.placement.centers}
    if parts is not None:
        obsm["subspots"] = parts
    region_key, instance_key = link_keys(sdata, shapes_key)
    table = make_table(
        spot, region=shapes_key, instances=site.placement.index, region_key=region_key, instance_key=instance_key,
        obsm=obsm, uns={UNS: site.provenance()},
    )  # fmt: skip
    add_table(sdata, plan.key, table, what="features", overwrite=plan.overwrite)
    return plan.key


def _find(sdata: SpatialData, shapes_key: str, fingerprint: str, index: pd.Index) -> str | None:
    for key in tables_annotating(sdata, shapes_key):
        table = sdata.tables[key]
        same = table.uns.get(UNS, {}).get("fingerprint") == fingerprint
        # Somebody may have cut or sorted the table since: bags rely on one row for each shape, in their order.
        if same and np.array_equal(rows_of(table, shapes_key), index):
            return key
    return None


def _check_size(n: int, request: Request) -> None:
    dim, parts = request.encoder.card.dim, request.n_subspots
    gb = n * dim * (np.dtype(np.float32).itemsize + parts * np.dtype(np.float16).itemsize) / 1e9
    if gb > settings.max_table_gb:
        raise ValueError(
            f"The features of {n:,} spots would take {gb:.1f} GB in memory, above `ds.settings.max_table_gb` = "
            f"{settings.max_table_gb:g}. Raise the limit, embed a part of the spots, leave the sub-spots out with "
            "`subspots=False` and a model that does not use them, or stream the prediction to disk with "
            "`ds.tl.predict(…, out='predicted.zarr')`, which needs no feature table."
        )


def subspots_from(subspots: bool | str) -> SubspotsFrom | None:
    """What sub-spots are embedded from, or None for none of them; True is what there was before there was a choice."""
    if not isinstance(subspots, str):
        return "tiles" if subspots else None
    return cast("SubspotsFrom", key_in(subspots, get_args(SubspotsFrom), "subspots"))


def bags_of(sdata: SpatialData, features_key: str, shapes_key: str, rule: NeighborRule) -> Bags:
    """Bags of the spots of a feature table, in its order, with the neighbours that a rule gives."""
    features = sdata.tables[features_key]
    centers_um = np.asarray(features.obsm["spatial"]) * float(features.uns[UNS]["mpp"])
    # Positions in the array are looked up when they are needed: they may have been added or mended since embedding.
    array = array_positions(sdata, shapes_key) if rule.kind == "box" else None
    neighbors = find_neighbors(centers_um, rule, array)
    position = (centers_um - centers_um.mean(axis=0)).astype(np.float32)
    return Bags(np.asarray(features.X, dtype=np.float32), features.obsm.get("subspots"), neighbors, position)


def read_spot_tiles(plan: Plan, px: int) -> np.ndarray:
    """Read the tiles of a plan as uint8 (n, px, px, 3), resized without aliasing as encoders do."""
    import torch
    from torch.nn import functional as F

    n = len(plan.site.placement.centers)
    gb = n * px * px * 3 / 1e9
    if gb > settings.max_table_gb:
        raise ValueError(
            f"The tiles of {n:,} spots would take {gb:.1f} GB in memory, above `ds.settings.max_table_gb` = "
            f"{settings.max_table_gb:g}. Raise the limit, or read smaller tiles with `tiles_px=`."
        )
    tiles = np.empty((n, px, px, 3), dtype=np.uint8)
    for rows, pixels in _tiles.read_tiles(plan.site.level, plan.site.boxes, SPOTS):
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        small = F.interpolate(batch, size=(px, px), mode="bilinear", antialias=True, align_corners=False)
        tiles[rows] = small.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return tiles
