"""Feature tables: embeddings of the tiles of a slide's spots. All checks are done before the embedding starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.keys import FEATURES, UNS, features_name
from deepspot._core.logging import bar, logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_count
from deepspot._image.stains import VERSION as STAINS_VERSION
from deepspot._image.stains import stain_normalizer
from deepspot._image.tiles import image_fingerprint, level_sizes, read_tiles
from deepspot._sdata.tables import array_positions, rows_of, tables_annotating
from deepspot._sdata.view import NO_IMAGE, SlideView
from deepspot._sdata.write import add_table, check_memory, check_new_key, make_table
from deepspot._spatial.geometry import Boxes, TileGeometry, make_boxes, place_boxes
from deepspot._spatial.neighbors import find_neighbors
from deepspot.encoders._parts import VERSION, require_parts

from .bags import Bags
from .nuclei import NucleiOfSpots, nuclei_of_spots

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

    from deepspot._image.stains import StainNormalizer
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
        if self.by_nuclei:
            return int(self.nuclei.number.max())
        return 0 if not self.subspots else 1 if self.only_central else self.geometry.grid**2

    @cached_property
    def present(self) -> np.ndarray | None:
        """Which sub-spots exist (n, s), if spots differ in their number."""
        if self.by_nuclei:
            return self.nuclei.present
        if self.stored is None or not self.subspots:
            return None
        return self.view.sdata.tables[self.stored].obsm.get(PRESENT)

    @property
    def by_nuclei(self) -> bool:
        """Whether the sub-spots are the nuclei of each spot. The central sub-spot of a nucleus is itself."""
        whole = self.stored is None and self.subspots and not self.only_central
        return whole and self.geometry.subspots == "nuclei"

    @cached_property
    def nuclei(self) -> NucleiOfSpots:
        """Nuclei that are the sub-spots; MissingKeyError if there are no such shapes."""
        return nuclei_of_spots(self.view, self.geometry)

    @property
    def tokens(self) -> bool:
        """Whether sub-spots are embedded from the tokens of the spot tile."""
        return self.subspots and self.geometry.subspots == "tokens"

    @cached_property
    def boxes(self) -> Boxes:
        """Tiles in the image level that is read."""
        name, sizes = f"image {self.view.image_key!r}", level_sizes(self.view.pyramid)
        return make_boxes(self.view.centers, self.view.mpp, sizes, self.geometry, name=name)

    @cached_property
    def nuclei_boxes(self) -> Boxes:
        """Tiles around the nuclei of all spots, with the side and in the image level of a sub-spot."""
        sizes, side = level_sizes(self.view.pyramid), self.boxes.side // self.geometry.grid
        return place_boxes(self.nuclei.centers, sizes, self.boxes.level, side)

    @property
    def level(self) -> DataArray:
        """Image level that is read."""
        return self.view.pyramid[self.boxes.level]

    @cached_property
    def normalizer(self) -> StainNormalizer | None:
        """Normalization of the stains of the slide, if the geometry has one."""
        if self.geometry.stain is None:
            return None
        name = f"Image {self.view.image_key!r}"
        return stain_normalizer(self.view.pyramid, self.view.mpp, self.geometry.stain, name)

    def _read(self, boxes: Boxes, *, in_order: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read tiles in batches, with normalized stains if the geometry has a reference: rows, and tiles in uint8."""
        normalize = self.normalizer
        for rows, tiles in read_tiles(self.level, boxes, SPOTS, in_order=in_order):
            yield rows, tiles if normalize is None else normalize(tiles)

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
        nuclei = [self.nuclei.centers.round(3), self.nuclei.number] if self.by_nuclei else []
        # The stains are those of the whole slide, and not only of its tiles.
        stain = [] if self.normalizer is None else [STAINS_VERSION, self.normalizer.matrix.round(3)]
        return digest(
            self.image_hash,
            self.view.centers.round(3),
            self.view.mpp,
            self.geometry.model_dump(),
            [self.boxes.level, self.boxes.side],
            self.encoder.fingerprint,
            [parts, VERSION] if self.tokens else parts,
            *nuclei,
            *stain,
        )

    def embed(
        self, rows: np.ndarray, *, device: str | None = None, batch_size: int | None = None, progress: str | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Embed some of the spots: (b, d) in float32, and (b, s, d) in float16 or None for their sub-spots."""
        from deepspot.encoders._encode import gather

        embedded = self.stream(rows, in_order=False, device=device, batch_size=batch_size, progress=progress)
        return gather(embedded, len(rows), self.encoder.card.dim, self.n_subspots)

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
        batches = self._read(self.boxes[rows], in_order=in_order)
        tiling, encoder = self._tiling(batch_size), self.encoder.to(device)
        if self.by_nuclei:
            n_tiles = len(rows) + int(self.nuclei.number[rows].sum())
        else:
            n_tiles = len(rows) * (1 if self.tokens else 1 + self.n_subspots)
        with bar(progress, total=n_tiles, unit="tile") if progress else nullcontext() as shown:
            count = shown.update if shown else lambda n: None
            embedded = stream_spots(batches, encoder, tiling, count)
            if not self.by_nuclei:
                yield from embedded
                return
            for at, spot, _ in embedded:
                yield at, spot, self._embed_nuclei(rows[at], encoder, tiling, count)

    def _embed_nuclei(
        self, rows: np.ndarray, encoder: Encoder, tiling: Tiling, count: Callable[[int], object]
    ) -> np.ndarray:
        """Embed the nuclei of some spots: (b, s, d) in float16, 0 where there is none."""
        from deepspot.encoders._card import check_embedded
        from deepspot.encoders._encode import stream_spots

        number, nuclei = self.nuclei.number[rows], self.nuclei.of(rows)
        vectors = np.empty((len(nuclei), encoder.card.dim), dtype=np.float16)
        if len(nuclei):
            batches = self._read(self.nuclei_boxes[nuclei])
            for at, embedded, _ in stream_spots(batches, encoder, tiling, count):
                check_embedded(embedded, encoder, embedded.shape)
                vectors[at] = embedded
        padded = np.zeros((len(rows), self.n_subspots, encoder.card.dim), dtype=np.float16)
        padded[np.arange(self.n_subspots) < number[:, None]] = vectors
        return padded

    def _tiling(self, batch_size: int | None) -> Tiling:
        from deepspot.encoders._encode import Tiling

        size = settings.batch_size if batch_size is None else check_count(batch_size, "batch_size")
        return Tiling(self.geometry.grid, self.subspots and not self.by_nuclei, size, self.only_central, self.tokens)

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
        for rows, pixels in self._read(self.boxes):
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
        if features.present is not None:
            obsm[PRESENT] = features.present
        region_key, instance_key = view.link_keys
        provenance = {
            "kind": FEATURES,
            "fingerprint": features.fingerprint,
            "image_key": view.image_key,
            "mpp": view.mpp,
            "geometry": features.geometry.model_dump(mode="json"),
            "subspots": "none" if not features.subspots else "central" if features.only_central else "all",
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
