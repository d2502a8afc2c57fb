"""Feature tables: embeddings of the tiles of a slide's spots. All checks are done before the embedding starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.keys import FEATURES, UNS, features_name
from deepspot._core.logging import bar, logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_count
from deepspot._image.tiles import image_fingerprint, level_sizes, read_tiles
from deepspot._sdata.tables import array_positions, rows_of, tables_annotating
from deepspot._sdata.view import NO_IMAGE, SlideView
from deepspot._sdata.write import add_table, check_memory, check_new_key, make_table
from deepspot._spatial.geometry import Boxes, TileGeometry, make_boxes
from deepspot._spatial.neighbors import find_neighbors
from deepspot.encoders._parts import VERSION, require_parts

from .bags import Bags

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

    from deepspot._spatial.geometry import NeighborRule
    from deepspot.encoders import Encoder
    from deepspot.encoders._encode import Tiling


PRESENT = "subspots_present"
"""Entry of `obsm` of a feature table whose spots differ in their number of sub-spots: which exist (n, s), in bool."""

# Spots whose tiles and sub-spots are in memory at once, in addition to image blocks.
SPOTS = 64


@dataclass(frozen=True, eq=False)
class SlideFeatures:
    """Features of a slide: which tiles are embedded with which encoder."""

    view: SlideView
    encoder: Encoder
    geometry: TileGeometry
    subspots: bool = True
    only_central: bool = False  # of the sub-spots, embed only the central one; requires an odd grid
    stored: str | None = None  # table to use, whatever its fingerprint; nothing is embedded

    def __post_init__(self) -> None:
        if self.tokens:
            require_parts(self.encoder)

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.view.centers)

    @property
    def n_subspots(self) -> int:
        """Number of embedded sub-spots of a spot; the largest one if spots differ in it."""
        if self.stored is not None and self.subspots:
            return self.view.sdata.tables[self.stored].obsm["subspots"].shape[1]
        return 0 if not self.subspots else 1 if self.only_central else self.geometry.grid**2

    @property
    def present(self) -> np.ndarray | None:
        """Which sub-spots exist (n, s), if spots differ in their number."""
        if self.stored is None or not self.subspots:
            return None
        return self.view.sdata.tables[self.stored].obsm.get(PRESENT)

    @property
    def tokens(self) -> bool:
        """Whether sub-spots are embedded from the tokens of the spot tile."""
        return self.subspots and self.geometry.subspots == "tokens"

    @cached_property
    def boxes(self) -> Boxes:
        """Tiles in the image level that is read."""
        name, sizes = f"image {self.view.image_key!r}", level_sizes(self.view.pyramid)
        return make_boxes(self.view.centers, self.view.mpp, sizes, self.geometry, name=name)

    @property
    def level(self) -> DataArray:
        """Image level that is read."""
        return self.view.pyramid[self.boxes.level]

    @cached_property
    def image_hash(self) -> str:
        """Content hash of the image level that is read; empty without an image."""
        if self.view.image_key == NO_IMAGE:
            return ""
        return image_fingerprint(self.level, self.boxes)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of everything that the features depend on; of the values, if they are stored."""
        if self.stored is not None:
            table = self.view.sdata.tables[self.stored]
            present = [] if self.present is None else [np.asarray(self.present)]
            return digest("stored", np.asarray(table.X), np.asarray(table.obsm.get("subspots", ())), *present)
        parts: Any = "central" if self.n_subspots == 1 and self.only_central else self.subspots
        return digest(
            self.image_hash,
            self.view.centers.round(3),
            self.view.mpp,
            self.geometry.model_dump(),
            [self.boxes.level, self.boxes.side],
            self.encoder.fingerprint,
            [parts, VERSION] if self.tokens else parts,
        )

    def embed(
        self, rows: np.ndarray, *, device: str | None = None, batch_size: int | None = None, progress: str | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Embed some of the spots: (b, d) in float32, and (b, s, d) in float16 or None for their sub-spots."""
        from deepspot.encoders._encode import gather

        if self.stored is not None:
            table = self.view.sdata.tables[self.stored]
            parts = np.asarray(table.obsm["subspots"][rows]) if self.subspots else None
            return np.asarray(table.X[rows], dtype=np.float32), parts
        embedded = self.stream(rows, in_order=False, device=device, batch_size=batch_size, progress=progress)
        return gather(embedded, len(rows), self.encoder.card.dim, self._tiling(batch_size))

    def stream(
        self,
        rows: np.ndarray,
        *,
        in_order: bool = True,
        device: str | None = None,
        batch_size: int | None = None,
        progress: str | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Embed some of the spots in batches: positions in `rows` (b,), and both arrays of :meth:`embed`.

        With `in_order`, successive spots should be close to each other; otherwise the order is that of the image.
        With `progress`, a bar of this name counts tiles.
        """
        from deepspot.encoders._encode import stream_spots

        if self.stored is not None:
            table = self.view.sdata.tables[self.stored]
            for start in range(0, len(rows), SPOTS):
                some = rows[start : start + SPOTS]
                parts = np.asarray(table.obsm["subspots"][some]) if self.subspots else None
                yield np.arange(start, start + len(some)), np.asarray(table.X[some], dtype=np.float32), parts
            return
        batches = read_tiles(self.level, self.boxes[rows], SPOTS, in_order=in_order)
        tiling = self._tiling(batch_size)
        if progress is None:
            yield from stream_spots(batches, self.encoder.to(device), tiling)
            return
        n_tiles = len(rows) * (1 if self.tokens else 1 + self.n_subspots)
        with bar(progress, total=n_tiles, unit="tile") as shown:
            yield from stream_spots(batches, self.encoder.to(device), tiling, shown.update)

    def _tiling(self, batch_size: int | None) -> Tiling:
        from deepspot.encoders._encode import Tiling

        size = settings.batch_size if batch_size is None else check_count(batch_size, "batch_size")
        return Tiling(self.geometry.grid, self.subspots, size, self.only_central, self.tokens)

    def read_spot_tiles(self, px: int) -> np.ndarray:
        """Read the spot tiles (n, px, px, 3) in uint8, resized with antialiasing as for encoders."""
        import torch
        from torch.nn import functional as F

        check_memory(
            self.n_spots * px * px * 3,
            f"The tiles of {self.n_spots:,} spots",
            "Raise the limit, or read smaller tiles with `tiles_px=`.",
        )
        tiles = np.empty((self.n_spots, px, px, 3), dtype=np.uint8)
        for rows, pixels in read_tiles(self.level, self.boxes, SPOTS):
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
            small = F.interpolate(batch, size=(px, px), mode="bilinear", antialias=True, align_corners=False)
            tiles[rows] = small.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return tiles

    def plan(self, *, key_added: str | None = None, overwrite: bool = False) -> FeaturePlan:
        """Check everything and look for an existing table, without changes."""
        if self.stored is not None:
            return FeaturePlan(self, self.stored, exists=True, overwrite=False)
        sdata = self.view.sdata
        bytes_per_value = np.dtype(np.float32).itemsize + self.n_subspots * np.dtype(np.float16).itemsize
        check_memory(
            self.n_spots * self.encoder.card.dim * bytes_per_value,
            f"The features of {self.n_spots:,} spots",
            "Raise the limit, embed a part of the spots, omit the sub-spots with `subspots=False` and a model that "
            "does not use them, or stream the prediction to disk with `ds.tl.predict(…, out='predicted.zarr')`, which "
            "needs no feature table.",
        )
        same = self._find()
        exists = same is not None and not overwrite and key_added in (None, same)
        key = str(same) if exists else key_added or features_name(self.encoder.card.name, self.view.shapes_key)
        if not exists and key_added is None and key in sdata.tables and not overwrite:
            key = f"{key}_{self.fingerprint[:8]}"
        if not exists:
            check_new_key(sdata, key, overwrite=overwrite)
        return FeaturePlan(self, key, exists, overwrite)

    def _find(self) -> str | None:
        """Return the name of the table with these features, if there is one."""
        sdata, shapes_key, card = self.view.sdata, self.view.shapes_key, self.encoder.card
        for key in tables_annotating(sdata, shapes_key):
            table = sdata.tables[key]
            made = table.uns.get(UNS, {})
            same = made.get("fingerprint") == self.fingerprint
            # Users may give the same fingerprint to several encoders of their own.
            same = same and (json.loads(made["encoder"])["name"], table.n_vars) == (card.name, card.dim)
            # Bags need one row for each shape, in their order: the table may have been filtered or sorted since.
            if same and np.array_equal(rows_of(table, shapes_key), self.view.index):
                return key
        return None


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """Feature table that can be added to an object."""

    features: SlideFeatures
    key: str
    exists: bool  # the object has this table already
    overwrite: bool

    def add(self, *, device: str | None = None, batch_size: int | None = None) -> str:
        """Embed and add the table unless it exists. Return its name."""
        features, view = self.features, self.features.view
        if features.stored is not None:
            logger.info("Using sdata.tables[%r].", self.key)
            return self.key
        if self.exists:
            logger.info("Using sdata.tables[%r]: image, spots, geometry and encoder are the same.", self.key)
            return self.key
        spot, subspots = features.embed(
            np.arange(features.n_spots), device=device, batch_size=batch_size, progress=f"Embedding {view.shapes_key}"
        )
        obsm = {"spatial": view.centers} | ({} if subspots is None else {"subspots": subspots})
        region_key, instance_key = view.link_keys
        provenance = {
            "kind": FEATURES,
            "fingerprint": features.fingerprint,
            "image_key": view.image_key,
            "mpp": view.mpp,
            "geometry": features.geometry.model_dump(),
            "subspots": {0: "none", features.geometry.grid**2: "all"}.get(features.n_subspots, "central"),
            "encoder": features.encoder.card.model_dump_json(),
            "encoder_fingerprint": features.encoder.fingerprint,
        }
        table = make_table(
            spot,
            region=view.shapes_key,
            instances=view.index,
            region_key=region_key,
            instance_key=instance_key,
            obsm=obsm,
            uns={UNS: provenance},
        )
        add_table(view.sdata, self.key, table, what="features", overwrite=self.overwrite)
        return self.key


def bags_of(sdata: SpatialData, features_key: str, shapes_key: str, rule: NeighborRule) -> Bags:
    """Return the bags of the spots of a feature table, in its order, with neighbors by a rule."""
    features = sdata.tables[features_key]
    centers_um = np.asarray(features.obsm["spatial"]) * float(features.uns[UNS]["mpp"])
    # Array positions are not in the feature table: they may have been added or corrected since.
    array = array_positions(sdata, shapes_key) if rule.kind == "box" else None
    neighbors = find_neighbors(centers_um, rule, array)
    position = (centers_um - centers_um.mean(axis=0)).astype(np.float32)
    made = features.uns[UNS]
    return Bags(
        np.asarray(features.X, dtype=np.float32),
        features.obsm.get("subspots"),
        neighbors,
        position,
        origins=np.asarray(features.obsm["spatial"]) - made["geometry"]["tile_um"] / float(made["mpp"]) / 2,
        present=features.obsm.get(PRESENT),
    )
